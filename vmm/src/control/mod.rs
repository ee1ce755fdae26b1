//! The control socket of a VM: what its monitor is asked, and what it answers and tells. A small module that both
//! sides use: `sandbox` asks, `monitor` answers, and neither sees the other.
//!
//! Both sides write lines of JSON. The first line of each is a [`Hello`] with the version of the language; another
//! MAJOR is refused, a new MINOR only adds, and unknown fields are ignored. Requests carry a number that their answer
//! repeats; an answer may come long after its request ([`Request::Wait`]), events come unasked after
//! [`Request::Subscribe`]. Nothing is ever polled.
//!
//! The monitor's standard input is such a connection too: the one of whoever started it. Its first request is
//! [`Request::Start`], with which the VM's open lock file travels.
//!
//! May depend on: `home`, `vmm-disk`, `vmm-protocol`, `vmm-sys`. Never on `monitor`, `sandbox`.

mod connection;
mod line;
mod message;

pub use connection::{Connection, ControlError};
pub use line::{LONGEST_LINE, LineBuffer, LineTooLong, to_line};
pub use message::{
    Answer, Balloon, ClientLine, Event, Goal, Hello, MonitorLine, Refusal, RefusalCode, Request,
    StartRequest, Status,
};

use vmm_protocol::Version;

/// The version of the control language that is spoken here.
pub const VERSION: Version = Version { major: 1, minor: 4 };
