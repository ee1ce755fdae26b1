//! What is said over the channel: frames of a kind, a length and a payload. One command for each life of a laboratory.

use std::io::{self, Error, ErrorKind, Read, Write};

/// More than any frame holds; what is larger is no frame.
const LONGEST: u32 = 1 << 20;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// From the laboratory: it is up, and waits for an order.
    Ready,
    /// To the laboratory: run this.
    Run(Order),
    /// To the laboratory: more for the command's standard input.
    Input(Vec<u8>),
    /// To the laboratory: the end of the command's standard input.
    EndOfInput,
    /// From the laboratory: what the command wrote to its standard output.
    Output(Vec<u8>),
    /// From the laboratory: what the command wrote to its standard error.
    Error(Vec<u8>),
    /// From the laboratory: the command ended with this status, as a shell gives it. Nothing follows.
    Ended(i32),
    /// From the laboratory: it cannot go on, and why. Nothing follows.
    Failed(String),
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The time of day, in nanoseconds since 1970: a laboratory that was frozen has missed some.
    pub time: u64,
    /// The size of the command's terminal; without, it has pipes.
    pub terminal: Option<Terminal>,
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// All of its variables.
    pub environment: Vec<(String, String)>,
    /// Where it starts.
    pub directory: String,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

impl Message {
    /// Writes the frame in one piece.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Ready => (b'r', Vec::new()),
            Self::Run(order) => (b'R', order.encode()),
            Self::Input(bytes) => (b'i', bytes.clone()),
            Self::EndOfInput => (b'I', Vec::new()),
            Self::Output(bytes) => (b'o', bytes.clone()),
            Self::Error(bytes) => (b'e', bytes.clone()),
            Self::Ended(status) => (b'x', status.to_le_bytes().to_vec()),
            Self::Failed(reason) => (b'f', reason.clone().into_bytes()),
        };
        let length = u32::try_from(payload.len()).ok().filter(|length| *length <= LONGEST);
        let length = length.ok_or_else(|| invalid("a frame that is too long"))?;
        let mut frame = vec![kind];
        frame.extend(length.to_le_bytes());
        frame.extend(payload);
        to.write_all(&frame)?;
        to.flush()
    }

    /// Reads a frame.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0];
        from.read_exact(&mut kind)?;
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(invalid("a frame that is too long"));
        }
        let mut payload = Vec::new();
        from.take(u64::from(length)).read_to_end(&mut payload)?;
        if payload.len() as u64 != u64::from(length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match kind {
            [b'r'] => Ok(Self::Ready),
            [b'R'] => Order::decode(&payload).map(Self::Run).ok_or_else(|| invalid("an order that is cut")),
            [b'i'] => Ok(Self::Input(payload)),
            [b'I'] => Ok(Self::EndOfInput),
            [b'o'] => Ok(Self::Output(payload)),
            [b'e'] => Ok(Self::Error(payload)),
            [b'x'] => {
                let status = payload.try_into().map_err(|_| invalid("a status that is cut"))?;
                Ok(Self::Ended(i32::from_le_bytes(status)))
            }
            [b'f'] => Ok(Self::Failed(String::from_utf8_lossy(&payload).into_owned())),
            _ => Err(invalid("a frame of an unknown kind")),
        }
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the channel carries {what}"))
}

impl Order {
    /// Numbers first, then strings that end with a zero, as those of a process do: a count before each list.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.time.to_le_bytes().to_vec();
        let terminal = self.terminal.unwrap_or(Terminal { columns: 0, rows: 0 });
        bytes.extend(terminal.columns.to_le_bytes());
        bytes.extend(terminal.rows.to_le_bytes());
        let mut strings = vec![self.directory.clone(), self.arguments.len().to_string()];
        strings.extend(self.arguments.iter().cloned());
        for (name, value) in &self.environment {
            strings.extend([name.clone(), value.clone()]);
        }
        for string in strings {
            bytes.extend(string.into_bytes());
            bytes.push(0);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (time, bytes) = bytes.split_first_chunk()?;
        let (columns, bytes) = bytes.split_first_chunk()?;
        let (rows, bytes) = bytes.split_first_chunk()?;
        let terminal = Terminal { columns: u16::from_le_bytes(*columns), rows: u16::from_le_bytes(*rows) };
        let text = String::from_utf8(bytes.strip_suffix(&[0])?.to_vec()).ok()?;
        let mut strings = text.split('\0').map(str::to_owned);
        let directory = strings.next()?;
        let count = strings.next()?.parse().ok()?;
        let arguments: Vec<String> = strings.by_ref().take(count).collect();
        let mut environment = Vec::new();
        while let Some(name) = strings.next() {
            environment.push((name, strings.next()?));
        }
        (arguments.len() == count).then(|| Self {
            time: u64::from_le_bytes(*time),
            terminal: (terminal.columns > 0).then_some(terminal),
            arguments,
            environment,
            directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            time: 1 << 60,
            terminal: Some(Terminal { columns: 80, rows: 25 }),
            arguments: vec!["sh".into(), String::new(), "echo ü".into()],
            environment: vec![("A".into(), "b=c".into()), ("EMPTY".into(), String::new())],
            directory: "/".into(),
        }
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let pipes = Order { terminal: None, environment: Vec::new(), ..order() };
        let messages = [
            Message::Ready,
            Message::Run(order()),
            Message::Run(pipes),
            Message::Input(vec![0, 255]),
            Message::EndOfInput,
            Message::Output(Vec::new()),
            Message::Error(b"no".to_vec()),
            Message::Ended(-1),
            Message::Failed("why".into()),
        ];
        let mut stream = Vec::new();
        for message in &messages {
            message.write(&mut stream).unwrap();
        }
        let mut stream = stream.as_slice();
        for message in messages {
            assert_eq!(Message::read(&mut stream).unwrap(), message);
        }
        assert!(stream.is_empty());
    }

    #[test]
    fn a_stream_that_is_cut_or_is_none_of_ours_is_an_error() {
        let mut stream = Vec::new();
        Message::Run(order()).write(&mut stream).unwrap();
        for length in 0..stream.len() {
            assert!(Message::read(&mut &stream[..length]).is_err(), "{length}");
        }
        assert!(Message::read(&mut &b"?\0\0\0\0"[..]).is_err());
        assert!(Message::read(&mut &b"o\xff\xff\xff\xff"[..]).is_err());
        assert!(Message::read(&mut &b"R\x01\0\0\0x"[..]).is_err());
        assert!(Message::Output(vec![0; 2 << 20]).write(&mut Vec::new()).is_err());
    }
}
