//! Clients of the host that have connected and not said yet what they want.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};
use snafu::Snafu;
use vmm_sys::{Interest, Poller};

/// The longest line is `CONNECT 4294967295`, with room for some white space.
const LONGEST_LINE: usize = 32;

/// Why a client is turned away.
#[derive(Debug, Snafu)]
pub(super) enum ClientError {
    /// It did not say `CONNECT` and a port.
    #[snafu(display("expected `CONNECT <port>`, got {line:?}"))]
    BadLine { line: String },
    /// It left.
    #[snafu(display("it left before it said what it wants"))]
    Gone,
    /// The socket failed.
    #[snafu(display("cannot read from it"), context(false))]
    Read { source: rustix::io::Errno },
}

/// A client and what there is of its first line.
#[derive(Debug)]
struct Client {
    socket: UnixStream,
    line: Vec<u8>,
}

impl Client {
    /// Reads the first line and not a byte beyond; `None`: it is not complete.
    fn read_line(&mut self) -> Result<Option<u32>, ClientError> {
        let mut bytes = [0; LONGEST_LINE];
        loop {
            let room = LONGEST_LINE - self.line.len();
            let seen = match recv(&self.socket, &mut bytes[..room], RecvFlags::PEEK) {
                Ok((_, 0)) => return GoneSnafu.fail(),
                Ok((_, seen)) => seen,
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let end = bytes[..seen].iter().position(|&byte| byte == b'\n');
            let wanted = end.map_or(seen, |end| end + 1);
            let (_, taken) = recv(&self.socket, &mut bytes[..wanted], RecvFlags::empty())?;
            self.line.extend(&bytes[..taken]);
            if end.is_some() || self.line.len() == LONGEST_LINE {
                return parse(&self.line).map(Some);
            }
        }
    }
}

fn parse(line: &[u8]) -> Result<u32, ClientError> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_ascii_whitespace();
    let is_connect = words.next().is_some_and(|word| word.eq_ignore_ascii_case("connect"));
    let port = words.next().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    match (is_connect, port.and_then(|word| word.parse().ok()), words.next(), line.last()) {
        (true, Some(port), None, Some(b'\n')) => Ok(port),
        _ => BadLineSnafu { line: text }.fail(),
    }
}

/// A client that said which port of the guest it wants.
pub(super) struct Connect {
    pub socket: UnixStream,
    pub port: u32,
}

/// The clients whose first line has not come. Each holds its descriptor and these few bytes, and when there are too
/// many, the one that waited longest makes room.
pub(super) struct Clients {
    limit: usize,
    /// By the time of their coming.
    waiting: BTreeMap<u64, Client>,
    next: u64,
}

impl Clients {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: BTreeMap::new(), next: 0 }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a client in. One that has written already need not wait.
    pub(super) fn admit(
        &mut self,
        socket: UnixStream,
        poller: &Poller,
        token: impl Fn(u64) -> u64,
    ) -> io::Result<Option<Connect>> {
        let mut client = Client { socket, line: Vec::new() };
        match client.read_line() {
            Ok(Some(port)) => return Ok(Some(Connect { socket: client.socket, port })),
            Ok(None) => {}
            Err(error) => {
                turned_away(&error);
                return Ok(None);
            }
        }
        if self.waiting.len() >= self.limit
            && let Some((_, oldest)) = self.waiting.pop_first()
        {
            tracing::debug!("a client that sent nothing makes room for others");
            poller.delete(&oldest.socket)?;
        }
        poller.add(&client.socket, token(self.next), Interest::READ)?;
        self.waiting.insert(self.next, client);
        self.next += 1;
        Ok(None)
    }

    /// A client has written something. It is out of the poller when it is returned.
    pub(super) fn ready(&mut self, number: u64, poller: &Poller) -> io::Result<Option<Connect>> {
        let Some(client) = self.waiting.get_mut(&number) else { return Ok(None) };
        let port = match client.read_line() {
            Ok(None) => return Ok(None),
            Ok(Some(port)) => Some(port),
            Err(error) => {
                turned_away(&error);
                None
            }
        };
        let Some(client) = self.waiting.remove(&number) else { return Ok(None) };
        poller.delete(&client.socket)?;
        Ok(port.map(|port| Connect { socket: client.socket, port }))
    }
}

fn turned_away(error: &ClientError) {
    tracing::debug!(error = error as &dyn std::error::Error, "turned a client away");
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn the_line_names_a_port_and_nothing_else() {
        for (line, port) in
            [("CONNECT 52\n", 52), ("connect 4294967295\n", u32::MAX), (" CONNECT  7 \r\n", 7)]
        {
            assert_eq!(parse(line.as_bytes()).unwrap(), port, "{line:?}");
        }
        for line in [
            "\n",
            "CONNECT\n",
            "CONNECT 52",
            "CONNECT 4294967296\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 1 2\n",
            "CONNECTED 1\n",
            "GET / HTTP/1.1\n",
            "CONNECT \u{661}\n",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn what_follows_the_line_is_left_in_the_socket() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"CONNECT 5\nhello").unwrap();
        let (poller, mut clients) = (Poller::new().unwrap(), Clients::new(1));
        let mut connect = clients.admit(ours, &poller, |number| number).unwrap().unwrap();
        assert_eq!(connect.port, 5);
        let mut rest = [0; 16];
        assert_eq!(connect.socket.read(&mut rest).unwrap(), 5);
        assert_eq!(&rest[..5], b"hello");
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_put_together() {
        let (ours, mut theirs) = pair();
        let (poller, mut clients) = (Poller::new().unwrap(), Clients::new(1));
        assert!(clients.admit(ours, &poller, |number| number).unwrap().is_none());
        for byte in b"CONNECT 1234" {
            theirs.write_all(&[*byte]).unwrap();
            assert!(clients.ready(0, &poller).unwrap().is_none());
        }
        theirs.write_all(b"\n\n").unwrap();
        assert_eq!(clients.ready(0, &poller).unwrap().unwrap().port, 1234);
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn a_line_without_end_is_cut_off() {
        let (ours, mut theirs) = pair();
        theirs.write_all(&[b' '; 10_000]).unwrap();
        let (poller, mut clients) = (Poller::new().unwrap(), Clients::new(1));
        assert!(clients.admit(ours, &poller, |number| number).unwrap().is_none());
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn the_client_that_waited_longest_makes_room() {
        let (poller, mut clients) = (Poller::new().unwrap(), Clients::new(2));
        let mut theirs: Vec<_> = (0..3)
            .map(|_| {
                let (ours, theirs) = pair();
                clients.admit(ours, &poller, |number| number).unwrap();
                theirs
            })
            .collect();
        assert_eq!(clients.len(), 2);
        assert_eq!(theirs[0].read(&mut [0]).unwrap(), 0);
        theirs[1].write_all(b"CONNECT 1\n").unwrap();
        assert_eq!(clients.ready(1, &poller).unwrap().unwrap().port, 1);
    }
}
