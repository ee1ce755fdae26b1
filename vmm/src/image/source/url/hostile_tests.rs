//! Servers that lie, cut, stall, redirect and fail, and what a download makes of them.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::super::super::testing::hasty;
use super::*;
use crate::image::Progress;

/// What a server was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    line: String,
    range: Option<String>,
    if_range: Option<String>,
}

/// A server whose answer to each request is a function's.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `answer` gets the number of the request, from 0, what it asks, and the connection.
    fn new(answer: impl Fn(usize, &Asked, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let record = asked.clone();
        // It waits for connections until the test process ends.
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&stream) else { continue };
                record.lock().unwrap().push(request.clone());
                answer(number, &request, &mut stream);
            }
        });
        Self { port, asked }
    }

    fn url(&self, path: &str) -> &'static str {
        Box::leak(format!("http://127.0.0.1:{}{path}", self.port).into_boxed_str())
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.asked().into_iter().map(|asked| asked.range).collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Asked> {
    let mut asked = Asked::default();
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?;
        match line.split_once(": ") {
            _ if line.is_empty() => return Some(asked),
            Some((name, value)) if name.eq_ignore_ascii_case("range") => asked.range = Some(value.to_owned()),
            Some((name, value)) if name.eq_ignore_ascii_case("if-range") => {
                asked.if_range = Some(value.to_owned());
            }
            None if asked.line.is_empty() => asked.line = line,
            _ => {}
        }
    }
    None
}

/// Sends a head and a body. Whoever asked may have gone by then.
fn send(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// The whole file, with this tag.
fn send_whole(stream: &mut TcpStream, etag: &str) {
    send(stream, "200 OK", &[("Content-Length", "200000"), ("ETag", etag)], &contents());
}

/// The rest of the file that a request asks for.
fn send_rest(stream: &mut TcpStream, asked: &Asked, etag: &str, file: &[u8]) {
    let from = first_byte(asked);
    let range = format!("bytes {from}-{}/{}", file.len() - 1, file.len());
    let length = (file.len() - from).to_string();
    let headers = [("Content-Length", length.as_str()), ("Content-Range", &range), ("ETag", etag)];
    send(stream, "206 Partial Content", &headers, &file[from..]);
}

fn first_byte(asked: &Asked) -> usize {
    asked.range.as_ref().unwrap().trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
}

/// Says that it sends the whole file, and sends so much of it.
fn send_cut(stream: &mut TcpStream, etag: &str, length: usize) {
    send(stream, "200 OK", &[("Content-Length", "200000"), ("ETag", etag)], &contents()[..length]);
}

fn contents() -> Vec<u8> {
    (0..200_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn pin() -> Pin {
    Pin { size: 200_000, sha256: Digest::of(&contents()) }
}

/// A folder to download into.
struct Bench {
    folder: TempDir,
    network: Network,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), network: hasty() }
    }

    fn fetch(&self, url: &'static str) -> Result<Vec<u8>, String> {
        self.fetch_with(url, &())
    }

    fn fetch_with(&self, url: &'static str, progress: &dyn Progress) -> Result<Vec<u8>, String> {
        self.fetch_pinned(url, &pin(), progress)
    }

    fn fetch_pinned(&self, url: &'static str, pin: &Pin, progress: &dyn Progress) -> Result<Vec<u8>, String> {
        let workshop = Workshop {
            folder: self.folder.path(),
            downloads: &Downloads::new(self.folder.path().join("downloads")),
            network: &self.network,
            image: "fake",
            search_path: std::ffi::OsString::new(),
            progress,
        };
        let to = self.folder.path().join("fetched");
        let _ = std::fs::remove_file(&to);
        let fetched = Url { url }.fetch(&workshop, pin, &to);
        fetched.map(|()| std::fs::read(&to).unwrap()).map_err(|error| error.to_string())
    }

    /// The lengths of the incomplete downloads that are kept.
    fn kept(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.folder.path().join("downloads")).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        let partial = entries.filter(|path| path.extension().is_some_and(|end| end == "partial"));
        partial.map(|path| path.metadata().unwrap().len()).collect()
    }
}

#[test]
fn a_file_comes_whole_and_leaves_nothing_behind() {
    let server = Server::new(|_, _, stream| send_whole(stream, "\"1\""));
    let bench = Bench::new();
    assert_eq!(bench.fetch(server.url("/x")).unwrap(), contents());
    assert_eq!(server.ranges(), [None]);
    assert_eq!(bench.kept(), [] as [u64; 0]);
}

#[test]
fn a_line_that_is_cut_costs_the_missing_bytes_only() {
    let server = Server::new(|number, asked, stream| match number {
        0 => send_cut(stream, "\"1\"", 70_000),
        1 => {
            let from = first_byte(asked);
            let range = format!("bytes {from}-199999/200000");
            let headers =
                [("Content-Length", "130000"), ("Content-Range", range.as_str()), ("ETag", "\"1\"")];
            send(stream, "206 Partial Content", &headers, &contents()[from..from + 30_000]);
        }
        _ => send_rest(stream, asked, "\"1\"", &contents()),
    });
    assert_eq!(Bench::new().fetch(server.url("/x")).unwrap(), contents());
    let ranges = [None, Some("bytes=70000-".to_owned()), Some("bytes=100000-".to_owned())];
    assert_eq!(server.ranges(), ranges);
    assert_eq!(server.asked()[1].if_range.as_deref(), Some("\"1\""));
}

#[test]
fn what_comes_again_and_again_and_is_thrown_away_is_no_progress() {
    // A server that cuts the file after a megabyte, and then knows nothing of its rest.
    let file = vec![1; 2 << 20];
    let server = Server::new(|number, _, stream| match number % 2 {
        0 => send(stream, "200 OK", &[("Content-Length", "2097152"), ("ETag", "\"1\"")], &[1; 3 << 19]),
        _ => send(stream, "416 Range Not Satisfiable", &[], b""),
    });
    let pin = Pin { size: 2 << 20, sha256: Digest::of(&file) };
    let error = Bench::new().fetch_pinned(server.url("/x"), &pin, &()).unwrap_err();
    assert!(error.contains("5 times in a row"), "{error}");
    assert_eq!(server.asked().len(), 5);
}

#[test]
fn what_an_earlier_pull_left_is_gone_on_with() {
    // Given a server that goes away midway, until it is given up.
    let server = Server::new(|number, asked, stream| match number {
        0 => send_cut(stream, "\"1\"", 70_000),
        1..=4 => {}
        _ => send_rest(stream, asked, "\"1\"", &contents()),
    });
    let bench = Bench::new();
    let error = bench.fetch(server.url("/x")).unwrap_err();
    assert!(error.ends_with("the connection broke, 5 times in a row"), "{error}");
    assert_eq!(bench.kept(), [70_000]);
    // Then the next pull asks for the rest.
    assert_eq!(bench.fetch(server.url("/x")).unwrap(), contents());
    assert_eq!(server.ranges().last().unwrap().as_deref(), Some("bytes=70000-"));
    assert_eq!(bench.kept(), [] as [u64; 0]);
}

#[test]
fn another_length_than_the_pinned_one_is_refused_before_a_byte_is_kept() {
    for (claimed, more) in [("100000", 0), ("200001", 1), ("18446744073709551615", 0)] {
        let server = Server::new(move |_, _, stream| {
            let mut body = contents();
            body.extend(vec![0; more]);
            send(stream, "200 OK", &[("Content-Length", claimed)], &body);
        });
        let bench = Bench::new();
        let error = bench.fetch(server.url("/x")).unwrap_err();
        assert!(error.ends_with(&format!("its size is {claimed} instead of 200000")), "{error}");
        assert_eq!((bench.kept(), server.asked().len()), (vec![0], 1));
    }
}

#[test]
fn no_more_is_written_than_is_pinned_however_much_comes() {
    // Given a server that does not say how much it sends, and never ends.
    let server = Server::new(|_, _, stream| {
        send(stream, "200 OK", &[], &contents());
        while stream.write_all(&[0; 4096]).is_ok() {}
    });
    let bench = Bench::new();
    let error = bench.fetch(server.url("/x")).unwrap_err();
    assert!(error.contains("instead of 200000"), "{error}");
    assert_eq!(bench.kept(), [0]);
}

#[test]
fn less_than_is_said_is_a_cut_line() {
    let server = Server::new(|_, asked, stream| match &asked.range {
        None => send(stream, "200 OK", &[], &contents()[..150_000]),
        Some(_) => send_rest(stream, asked, "\"1\"", &contents()),
    });
    assert_eq!(Bench::new().fetch(server.url("/x")).unwrap(), contents());
    assert_eq!(server.ranges(), [None, Some("bytes=150000-".to_owned())]);
}

#[test]
fn a_server_in_trouble_is_asked_again_and_not_for_ever() {
    let server = Server::new(|number, _, stream| match number {
        0 => send(stream, "500 Internal Server Error", &[], b"sorry"),
        1 => send(stream, "429 Too Many Requests", &[], b""),
        _ => send_whole(stream, "\"1\""),
    });
    assert_eq!(Bench::new().fetch(server.url("/x")).unwrap(), contents());

    let server = Server::new(|_, _, stream| send(stream, "503 Service Unavailable", &[], b""));
    let error = Bench::new().fetch(server.url("/x")).unwrap_err();
    let expected = "it answered 503 Service Unavailable, 5 times in a row";
    assert_eq!(error, format!("cannot download {}: {expected}", server.url("/x")));
    assert_eq!(server.asked().len(), 5);
}

#[test]
fn what_is_not_there_is_not_asked_for_again() {
    for status in ["404 Not Found", "410 Gone", "403 Forbidden", "204 No Content"] {
        let server = Server::new(move |_, _, stream| send(stream, status, &[], b""));
        let error = Bench::new().fetch(server.url("/x")).unwrap_err();
        assert_eq!(error, format!("cannot download {}: it answered {status}", server.url("/x")));
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn a_server_that_ignores_ranges_sends_all_of_it_again() {
    let server = Server::new(|number, _, stream| match number {
        0 => send_cut(stream, "\"1\"", 70_000),
        _ => send_whole(stream, "\"1\""),
    });
    assert_eq!(Bench::new().fetch(server.url("/x")).unwrap(), contents());
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn parts_of_two_files_are_never_put_together() {
    // Given another file by the time that the line was cut, on a server that does not care for If-Range.
    let server = Server::new(|number, asked, stream| match number {
        0 => send(stream, "200 OK", &[("Content-Length", "200000"), ("ETag", "\"old\"")], &[7; 70_000]),
        1 => send_rest(stream, asked, "\"new\"", &contents()),
        _ => send_whole(stream, "\"new\""),
    });
    assert_eq!(Bench::new().fetch(server.url("/x")).unwrap(), contents());
    assert_eq!(server.ranges(), [None, Some("bytes=70000-".to_owned()), None]);
}

#[test]
fn an_answer_to_another_range_is_not_used() {
    let server = Server::new(|number, _, stream| match number {
        0 => send_cut(stream, "\"1\"", 70_000),
        1 => {
            let headers = [("Content-Range", "bytes 60000-199999/200000"), ("ETag", "\"1\"")];
            send(stream, "206 Partial Content", &headers, &contents()[60_000..]);
        }
        _ => send_whole(stream, "\"1\""),
    });
    assert_eq!(Bench::new().fetch(server.url("/x")).unwrap(), contents());
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn bytes_that_went_bad_between_two_pulls_are_fetched_again() {
    // Given an incomplete download whose bytes a power cut has taken, of a file without a tag.
    let server = Server::new(|number, asked, stream| match number {
        0 => send(stream, "200 OK", &[("Content-Length", "200000")], &contents()[..70_000]),
        1..=4 => {}
        5 => send_rest(stream, asked, "", &contents()),
        _ => send_whole(stream, ""),
    });
    let bench = Bench::new();
    bench.fetch(server.url("/x")).unwrap_err();
    let (data, _) =
        Downloads::new(bench.folder.path().join("downloads")).places_of(server.url("/x")).unwrap();
    std::fs::write(data, [0; 70_000]).unwrap();
    // When the next pull has the rest, then it finds out and fetches all of it.
    assert_eq!(bench.fetch(server.url("/x")).unwrap(), contents());
    assert_eq!(server.ranges()[5..], [Some("bytes=70000-".to_owned()), None]);
}

#[test]
fn redirects_are_followed_but_not_in_circles_nor_anywhere() {
    let server = Server::new(|_, asked, stream| match asked.line.as_str() {
        "GET /a/x HTTP/1.1" => send(stream, "302 Found", &[("Location", "../b")], b""),
        "GET /a/../b HTTP/1.1" => send(stream, "308 Permanent Redirect", &[("Location", "/c")], b""),
        "GET /c HTTP/1.1" => send_whole(stream, "\"1\""),
        "GET /file HTTP/1.1" => send(stream, "302 Found", &[("Location", "file:///etc/passwd")], b""),
        "GET /none HTTP/1.1" => send(stream, "302 Found", &[], b""),
        _ => send(stream, "301 Moved Permanently", &[("Location", "/round")], b""),
    });
    assert_eq!(Bench::new().fetch(server.url("/a/x")).unwrap(), contents());
    let error = Bench::new().fetch(server.url("/round")).unwrap_err();
    assert!(error.ends_with("it redirects more than 10 times"), "{error}");
    let error = Bench::new().fetch(server.url("/file")).unwrap_err();
    assert!(error.ends_with("\"file:///etc/passwd\" is no URL that can be fetched"), "{error}");
    let error = Bench::new().fetch(server.url("/none")).unwrap_err();
    assert!(error.ends_with("does not say where to"), "{error}");
}

#[test]
fn a_server_that_is_slow_to_death_is_given_up() {
    // Given a server that sends a byte whenever a byte of its own has been read, and then nothing.
    let server = Server::new(|_, _, stream| {
        send_cut(stream, "\"1\"", 10);
        // Until the other side has gone.
        let _ = std::io::copy(stream, &mut std::io::sink());
    });
    let mut bench = Bench::new();
    bench.network.patience.slowest = (1000, Duration::from_millis(100));
    let error = bench.fetch(server.url("/x")).unwrap_err();
    assert!(error.ends_with("it is too slow: 10 bytes came in 0.1 s"), "{error}");
    assert_eq!((bench.kept(), server.asked().len()), (vec![10], 1));
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let (sender, hold) = channel::<()>();
    let hold = Mutex::new(hold);
    let server = Server::new(move |_, _, stream| {
        // Held open for as long as the test lasts.
        let held = stream.try_clone().unwrap();
        std::mem::forget(held);
        let _ = hold.lock().unwrap().try_recv();
    });
    let mut bench = Bench::new();
    bench.network.patience.read = Duration::from_millis(50);
    let error = bench.fetch(server.url("/x")).unwrap_err();
    assert!(error.ends_with("the server does not answer, 5 times in a row"), "{error}");
    drop(sender);
}

#[test]
fn where_there_is_no_way_to_the_server_nothing_is_tried_again() {
    let bench = Bench::new();
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url: &'static str = Box::leak(format!("http://127.0.0.1:{port}/x").into_boxed_str());
    let error = bench.fetch(url).unwrap_err();
    assert_eq!(error, format!("no network (the server refuses the connection): {url} is missing here; "));
    // A name that never is one (RFC 6761).
    let error = bench.fetch("http://nothing.invalid/x").unwrap_err();
    assert!(error.starts_with("no network (host names cannot be resolved"), "{error}");
}

#[test]
fn a_download_that_is_given_up_keeps_what_has_come() {
    struct GiveUp(AtomicBool);
    impl Progress for GiveUp {
        fn step(&self, step: Step<'_>) {
            if step.done > 0 {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
    let server = Server::new(|_, _, stream| {
        send_cut(stream, "\"1\"", 70_000);
        let _ = std::io::copy(stream, &mut std::io::sink());
    });
    let bench = Bench::new();
    let error = bench.fetch_with(server.url("/x"), &GiveUp(AtomicBool::new(false))).unwrap_err();
    assert_eq!(error, "getting fake was given up");
    assert!(bench.kept()[0] > 0);
}

#[test]
fn a_proxy_of_the_environment_is_used_where_it_should_be() {
    // Given a proxy that refuses, and says so.
    let proxy = Server::new(|_, _, stream| send(stream, "403 Forbidden", &[], b""));
    let server = Server::new(|_, _, stream| send_whole(stream, "\"1\""));
    let mut bench = Bench::new();
    bench.network.proxies = Proxies::for_all(proxy.url(""), "");
    let error = bench.fetch(server.url("/x")).unwrap_err();
    assert!(error.contains("the proxy refuses"), "{error}");
    assert_eq!(proxy.asked()[0].line, format!("CONNECT 127.0.0.1:{} HTTP/1.1", server.port));
    assert_eq!(server.asked(), []);
    // When the server needs no proxy, then none is asked.
    bench.network.proxies = Proxies::for_all(proxy.url(""), "127.0.0.0,127.0.0.1");
    assert_eq!(bench.fetch(server.url("/x")).unwrap(), contents());
    // And one that is gone is an error that says what cannot be reached, and repeats no password.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    bench.network.proxies = Proxies::for_all(&format!("http://me:secret@127.0.0.1:{gone}"), "");
    let error = bench.fetch(server.url("/y")).unwrap_err();
    assert!(error.starts_with("no network (the proxy cannot be reached"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}
