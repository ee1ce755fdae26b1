//! One request for a file, or for the rest of one: redirects, proxies, and what goes wrong on the way.
//!
//! It runs on a thread of its own, so that whoever waits for it can give up at any moment: a thread that nobody listens
//! to any more ends at its next read, or at the latest when that runs into its timeout.

use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use super::Network;

/// How often a server may send us elsewhere.
const MOST_REDIRECTS: usize = 10;

/// How many bytes travel from the thread at once, and how many such pieces may wait.
const PIECE: usize = 64 << 10;
const PIECES: usize = 16;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) url: String,
    /// The first byte that is wanted.
    pub(super) from: u64,
    /// What the file was marked with when the bytes before came: if that is another now, all of it is wanted.
    pub(super) validator: Option<String>,
}

/// What comes.
#[derive(Debug)]
pub(super) enum Event {
    /// The answer's head, once and first.
    Head(Head),
    /// Bytes of the file.
    Bytes(Vec<u8>),
    /// The answer has ended, whether it was complete or not.
    End,
    /// Nothing more comes.
    Failed(Failure),
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    /// The status as a person reads it.
    pub(super) status_line: String,
    /// The length of what follows, where it is told.
    pub(super) length: Option<u64>,
    /// The first byte of what follows, and the length of the whole file, of an answer that is a part of it.
    pub(super) range: Option<(u64, Option<u64>)>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no way to the server.
    NoWay(String),
    /// The way broke, or the server is in trouble: it may be better soon.
    Broken(String),
    /// It will not be better.
    Final(String),
}

/// Sends the request.
pub(super) fn send(request: Request, network: &Network) -> io::Result<Receiver<Event>> {
    let (sender, events) = sync_channel(PIECES);
    let network = network.clone();
    std::thread::Builder::new().name("download".to_owned()).spawn(move || {
        if let Err(failure) = converse(&request, &network, &sender) {
            // Nobody may listen any more.
            let _ = sender.send(Event::Failed(failure));
        }
    })?;
    Ok(events)
}

fn converse(request: &Request, network: &Network, sender: &SyncSender<Event>) -> Result<(), Failure> {
    let mut answer = follow(request, network)?;
    let head = Head::of(&answer);
    let has_file = matches!(head.status, 200 | 206);
    if sender.send(Event::Head(head)).is_err() || !has_file {
        return Ok(());
    }
    let mut body = answer.body_mut().as_reader();
    loop {
        let mut piece = vec![0; PIECE];
        match body.read(&mut piece) {
            Ok(0) => {
                let _ = sender.send(Event::End);
                return Ok(());
            }
            Ok(count) => {
                piece.truncate(count);
                if sender.send(Event::Bytes(piece)).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::of(ureq::Error::from(error))),
        }
    }
}

/// Asks, and goes where the server sends us.
fn follow(request: &Request, network: &Network) -> Result<Response<Body>, Failure> {
    let mut url = request.url.clone();
    for _ in 0..=MOST_REDIRECTS {
        let target = Target::of(&url)?;
        let answer = ask(&url, &target, request, network)?;
        if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(answer);
        }
        let location = text(&answer, "location")
            .ok_or_else(|| Failure::Final("it redirects and does not say where to".to_owned()))?;
        let next = target.join(&url, &location)?;
        if target.secure && !Target::of(&next)?.secure {
            return Err(Failure::Final("it redirects from https to http".to_owned()));
        }
        url = next;
    }
    Err(Failure::Final(format!("it redirects more than {MOST_REDIRECTS} times")))
}

fn ask(url: &str, target: &Target, request: &Request, network: &Network) -> Result<Response<Body>, Failure> {
    let proxy = match network.proxies.proxy_for(target.secure, &target.host, target.port) {
        // What the variable says may hold a password, and is not repeated.
        Some(proxy) => Some(Proxy::new(proxy).map_err(|_| {
            Failure::Final(
                "the environment names a proxy that cannot be used (http_proxy, https_proxy)".to_owned(),
            )
        })?),
        None => None,
    };
    let through_proxy = proxy.is_some();
    let patience = &network.patience;
    let mut tls = TlsConfig::builder();
    if let Some(path) = network.authorities.as_deref().filter(|_| target.secure || through_proxy) {
        tls = tls.root_certs(RootCerts::new_with_certs(&authorities(path)?));
    }
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .user_agent(concat!("vmm/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.read))
        .timeout_per_read(Some(patience.read))
        .build();
    // Packed on the way, the bytes would not be those of the file, nor their numbers.
    let mut asked = Agent::new_with_config(config).get(url).header("Accept-Encoding", "identity");
    if request.from > 0 {
        asked = asked.header("Range", format!("bytes={}-", request.from));
        if let Some(validator) = &request.validator {
            asked = asked.header("If-Range", validator);
        }
    }
    asked.call().map_err(|error| match Failure::of(error) {
        Failure::NoWay(reason) if through_proxy => {
            Failure::NoWay(format!("the proxy cannot be reached: {reason}"))
        }
        failure => failure,
    })
}

/// The certificate authorities in a file.
fn authorities(path: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let refused = |reason: String| {
        let path = path.display();
        Failure::Final(format!(
            "the certificate authorities in {path} (SSL_CERT_FILE) cannot be used: {reason}"
        ))
    };
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(refused(error.to_string()))),
    });
    let certificates = items.collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() { Err(refused("there are none in it".to_owned())) } else { Ok(certificates) }
}

/// Where a URL leads.
#[derive(Debug)]
struct Target {
    secure: bool,
    host: String,
    port: u16,
}

impl Target {
    fn of(url: &str) -> Result<Self, Failure> {
        let refused = || Failure::Final(format!("{url:.200?} is no URL that can be fetched"));
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refused()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(refused)?.to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port })
    }

    /// The URL that a `Location` means (RFC 3986, 5.2, without `.` and `..`, which servers resolve).
    fn join(&self, base: &str, location: &str) -> Result<String, Failure> {
        let location = location.split('#').next().unwrap_or_default();
        // A scheme has none of the characters that end one; a query may have a URL in it.
        let scheme = location.split_once("://").map(|(scheme, _)| scheme);
        if scheme.is_some_and(|scheme| !scheme.contains(['/', '?'])) {
            return Ok(location.to_owned());
        }
        let scheme = if self.secure { "https" } else { "http" };
        if let Some(rest) = location.strip_prefix("//") {
            return Ok(format!("{scheme}://{rest}"));
        }
        let origin = format!("{scheme}://{}:{}", self.host, self.port);
        if location.starts_with('/') {
            return Ok(format!("{origin}{location}"));
        }
        let uri: Uri = base.parse().map_err(|_| Failure::Final("it redirects to no URL".to_owned()))?;
        if location.starts_with('?') {
            return Ok(format!("{origin}{}{location}", uri.path()));
        }
        let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        Ok(format!("{origin}{folder}/{location}"))
    }
}

impl Head {
    fn of(answer: &Response<Body>) -> Self {
        let status = answer.status();
        Self {
            status: status.as_u16(),
            status_line: status.to_string(),
            length: text(answer, "content-length").and_then(|text| text.parse().ok()),
            range: text(answer, "content-range").and_then(|text| parse_range(&text)),
            etag: text(answer, "etag"),
            last_modified: text(answer, "last-modified"),
        }
    }
}

/// The first byte and the whole length in `bytes 100-199/200` (RFC 9110, 14.4).
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.trim().parse().ok()?;
    match total.trim() {
        "*" => Some((first, None)),
        total => Some((first, Some(total.parse().ok()?))),
    }
}

/// A header that is text of a sane length.
fn text(answer: &Response<Body>, name: &str) -> Option<String> {
    let value = answer.headers().get(name)?.to_str().ok()?;
    (value.len() <= 2000).then(|| value.to_owned())
}

impl Failure {
    fn of(error: ureq::Error) -> Self {
        match error {
            ureq::Error::HostNotFound => Self::NoWay("host names cannot be resolved".to_owned()),
            ureq::Error::Timeout(ureq::Timeout::Resolve) => {
                Self::NoWay("host names cannot be resolved in time".to_owned())
            }
            ureq::Error::Timeout(ureq::Timeout::Connect) => {
                Self::NoWay("the server cannot be reached in time".to_owned())
            }
            ureq::Error::Timeout(_) => Self::Broken("the server does not answer".to_owned()),
            ureq::Error::Io(error) => Self::of_io(&error),
            ureq::Error::Protocol(_) | ureq::Error::BodyStalled | ureq::Error::ConnectionFailed => {
                Self::Broken("the connection broke".to_owned())
            }
            ureq::Error::Rustls(error) => {
                Self::Final(format!("its certificate or encryption is refused: {error}"))
            }
            ureq::Error::ConnectProxyFailed(reason) => {
                Self::Final(format!("the proxy refuses: {}", reason.chars().take(100).collect::<String>()))
            }
            error => Self::Final(error.to_string()),
        }
    }

    fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, InvalidData, NetworkDown, NetworkUnreachable, TimedOut,
        };
        let text = error.to_string();
        // The standard library has no kind for it.
        if text.contains("failed to lookup address information") {
            return Self::NoWay("host names cannot be resolved".to_owned());
        }
        match error.kind() {
            NetworkUnreachable | NetworkDown => Self::NoWay("the network cannot be reached".to_owned()),
            HostUnreachable => Self::NoWay("there is no route to the server".to_owned()),
            ConnectionRefused => Self::NoWay("the server refuses the connection".to_owned()),
            TimedOut => Self::Broken("the server does not answer".to_owned()),
            // How the TLS library tells of certificates, wrapped.
            InvalidData => Self::Final(format!("its certificate or encryption is refused: {text}")),
            _ => Self::Broken("the connection broke".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_taken_relative_to_where_it_came_from() {
        let base = "http://host:8080/a/b?c";
        let target = Target::of(base).unwrap();
        for (location, expected) in [
            ("https://other/x", "https://other/x"),
            ("//other/x", "http://other/x"),
            ("/x?y", "http://host:8080/x?y"),
            ("x#part", "http://host:8080/a/x"),
            ("/get?u=https://x", "http://host:8080/get?u=https://x"),
            ("get?u=https://x", "http://host:8080/a/get?u=https://x"),
            ("?x", "http://host:8080/a/b?x"),
        ] {
            assert_eq!(target.join(base, location).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_url_of_the_web_is_refused() {
        for url in ["file:///etc/passwd", "ftp://host/x", "http://", "/x", "http://[", "host:80"] {
            assert!(matches!(Target::of(url), Err(Failure::Final(_))), "{url}");
        }
    }

    #[test]
    fn a_range_is_read_only_where_it_makes_sense() {
        assert_eq!(parse_range("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(parse_range("bytes 0-0/*"), Some((0, None)));
        for text in ["", "bytes */200", "bytes 1-2", "items 1-2/3", "bytes x-2/3", "bytes 1-2/x"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
