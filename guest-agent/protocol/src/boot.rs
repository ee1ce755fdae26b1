//! The connection that the agent opens once after a boot: it reports, is told what to be, and says when it is ready.
//!
//! Every message is a header; there are no frames. The connection stays open while the agent lives.

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentMessage {
    /// It is there and waits for its [`Configuration`].
    Hello(Hello),
    /// The root is mounted, everything told is applied, the agent takes requests.
    Ready(Ready),
    /// It cannot go on, and powers the machine off.
    Failed(Failed),
}

/// The agent's first message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The agent's own version.
    pub agent: String,
    /// The kernel's release.
    pub kernel: String,
}

/// What the host tells the agent to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// The time, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ns: Option<u64>,
    /// Random bytes from the host, which the kernel is told to trust.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entropy: Vec<u8>,
    /// Variables of every process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<(ByteString, ByteString)>,
    /// The text of `/etc/resolv.conf`; the image's own stays when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
    /// The root file system.
    pub root: Root,
    /// Who is process 1 in it.
    #[serde(default)]
    pub init: Init,
    /// Services of the image that its own init must not start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask_services: Vec<String>,
}

/// The root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The block device, as `/dev/vda`.
    pub device: String,
    /// Its type, as `ext4`.
    pub file_system: String,
    /// Mount options of that type, as `mount -o` takes them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// Nothing is written to it.
    #[serde(default)]
    pub read_only: bool,
    /// Its file system is to take the whole device, which may have become larger.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grow: bool,
    /// What is written goes elsewhere, over a root that is only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
}

/// Where what is written to a root that is only read goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// To memory.
    Memory,
    /// To a folder in the file system on this device, which is of the root's type.
    Disk {
        /// The block device.
        device: String,
    },
}

/// Who is process 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// The agent.
    #[default]
    Agent,
    /// The image's own, with the agent as a process beside it.
    Image,
}

/// The agent takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ready {
    /// What happened when.
    pub timings: Timings,
}

/// When the agent came to each of its steps: microseconds on the guest's monotonic clock, which starts with the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timings {
    /// The kernel started the agent.
    pub started_us: u64,
    /// Its connection to the host stood.
    pub connected_us: u64,
    /// The modules that the root needs were loaded.
    pub modules_us: u64,
    /// It was told what to be.
    pub configured_us: u64,
    /// The root's device was there.
    pub root_device_us: u64,
    /// The root was mounted.
    pub root_mounted_us: u64,
    /// It took requests.
    pub ready_us: u64,
}

/// The agent cannot go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// What it tried, on what.
    pub what: String,
    /// Why it failed.
    pub why: String,
}
