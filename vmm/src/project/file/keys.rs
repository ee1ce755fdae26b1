//! Every key that a project's file may have. Reading it, its JSON schema, the nearest right key in a message, and what
//! becomes of a VM when it changes all come from here: a new key is an entry here and a field of the description.

use super::super::description::{
    HealthCheck, MachineDescription, ProjectDisk, Script, ScriptRun, ScriptSource,
};
use toml::de::DeTable;

use super::json_schema;
use super::reader::{Effect, Key, Kind, Problems, Value, read_table, shortened};
use crate::arch::Arch;
use crate::boot::CommandLine;
use crate::home::Init;
use crate::image::Format;
use crate::machine::ConsoleKind;
use crate::sandbox::{BootProfileUse, PullPolicy, RootWrites};

/// More variables, scripts or words than anybody needs.
const MOST_ENTRIES: usize = 256;

/// The guest finds no more by one letter.
const MOST_DISKS: usize = 24;

/// The longest host name (RFC 1123, 2.1).
const HOST_NAME_LENGTH: usize = 63;

/// More attempts than this are no check of anything.
const MOST_RETRIES: i64 = 100_000;

/// What a machine may have.
pub(super) const MACHINE: &[Key<MachineDescription>] = &[
    Key {
        name: "managed_image",
        kind: Kind::Text,
        effect: Effect::Recreate,
        doc: "The image that the disk is made over, such as alpine or alpine:3.23",
        read: |machine, value, problems| {
            set(
                &mut machine.managed_image,
                value.parsed("the name of an image, such as \"alpine\"", problems),
            );
        },
    },
    Key {
        name: "base_image",
        kind: Kind::Text,
        effect: Effect::Recreate,
        doc: "A disk file that the disk is made over instead of an image: qcow2, or raw where it ends with .raw or .img",
        read: |machine, value, problems| set(&mut machine.base_image, value.path(problems).map(Some)),
    },
    Key {
        name: "overlay",
        kind: Kind::Text,
        effect: Effect::Recreate,
        doc: "The file for what is written to the disk, such as disk.qcow2; it is made with the VM, and goes with it",
        read: |machine, value, problems| set(&mut machine.overlay, value.path(problems).map(Some)),
    },
    Key {
        name: "read_only",
        kind: Kind::BooleanOr(&["memory", "disk"]),
        effect: Effect::Recreate,
        doc: "Attach the root's disk read-only; what is written goes to memory (true), or to a disk of its own (\"disk\")",
        read: |machine, value, problems| {
            let words = [("memory", RootWrites::Memory), ("disk", RootWrites::Disk)];
            let writes = value.boolean_or(&words, (RootWrites::Root, RootWrites::Memory), problems);
            set(&mut machine.read_only, writes);
        },
    },
    Key {
        name: "disks",
        kind: Kind::Tables(|| json_schema::of_table(DISK, &["path"])),
        effect: Effect::Restart,
        doc: "Disk files of the project's that the VM has beside its own, as /dev/vdb and so on, in this order",
        read: read_disks,
    },
    Key {
        name: "boot_profile",
        kind: Kind::Choice(&["image", "native"]),
        effect: Effect::Restart,
        doc: "image: heed the kernel parameters and the services to leave out that the image names; native: do not",
        read: |machine, value, problems| {
            let words = [BootProfileUse::Image, BootProfileUse::Native].map(|word| (word.name(), word));
            set(&mut machine.boot_profile, value.choice(&words, problems));
        },
    },
    Key {
        name: "cpus",
        kind: Kind::Number(1, 255),
        effect: Effect::Restart,
        doc: "Processors",
        read: |machine, value, problems| {
            let count = value.number(1..=255, problems);
            set(&mut machine.cpus, count.and_then(|count| u8::try_from(count).ok()));
        },
    },
    Key {
        name: "memory",
        kind: Kind::Size,
        effect: Effect::Restart,
        doc: "Memory, such as 512M or 2G",
        read: |machine, value, problems| {
            set(&mut machine.memory, value.amount("512M", problems));
        },
    },
    Key {
        name: "disk_size",
        kind: Kind::Size,
        effect: Effect::Restart,
        doc: "How large the disk is, such as 20G; it can become larger later and not smaller",
        read: |machine, value, problems| {
            set(&mut machine.disk_size, value.amount("20G", problems).map(Some));
        },
    },
    Key {
        name: "engine",
        kind: Kind::Choice(&["auto", "kvm", "hvf", "software"]),
        effect: Effect::Restart,
        doc: "What runs the processors",
        read: |machine, value, problems| {
            set(&mut machine.engine, value.parsed("the name of an engine, such as \"auto\"", problems));
        },
    },
    Key {
        name: "require_hardware",
        kind: Kind::Boolean,
        effect: Effect::Restart,
        doc: "Refuse an engine that is no hardware boundary",
        read: |machine, value, problems| set(&mut machine.require_hardware, value.boolean(problems)),
    },
    Key {
        name: "nested",
        kind: Kind::Boolean,
        effect: Effect::Restart,
        doc: "Let the guest run virtual machines itself; on the software engine it has one processor then",
        read: |machine, value, problems| set(&mut machine.nested, value.boolean(problems)),
    },
    Key {
        name: "console",
        kind: Kind::Choice(&["serial", "virtio"]),
        effect: Effect::Restart,
        doc: "What the console is: serial, or virtio on hardware virtualization",
        read: |machine, value, problems| {
            let words = [ConsoleKind::Serial, ConsoleKind::Virtio].map(|word| (word.name(), word));
            set(&mut machine.console, value.choice(&words, problems));
        },
    },
    Key {
        name: "balloon",
        kind: Kind::Boolean,
        effect: Effect::Restart,
        doc: "Give memory that the guest frees back to the host; on hardware virtualization",
        read: |machine, value, problems| set(&mut machine.balloon, value.boolean(problems)),
    },
    Key {
        name: "huge_pages",
        kind: Kind::Boolean,
        effect: Effect::Restart,
        doc: "Give the VM its memory in huge pages of the host's; on hardware virtualization",
        read: |machine, value, problems| set(&mut machine.huge_pages, value.boolean(problems)),
    },
    Key {
        name: "init",
        kind: Kind::Choice(&["agent", "image"]),
        effect: Effect::Restart,
        doc: "Who is PID 1: agent (quickest) or image (its own init, such as OpenRC)",
        read: |machine, value, problems| {
            let words = [Init::Agent, Init::Image].map(|word| (word.name(), word));
            set(&mut machine.init, value.choice(&words, problems));
        },
    },
    Key {
        name: "hostname",
        kind: Kind::Text,
        effect: Effect::Restart,
        doc: "The name that the guest gives itself",
        read: |machine, value, problems| set(&mut machine.hostname, host_name(value, problems).map(Some)),
    },
    Key {
        name: "kernel",
        kind: Kind::Text,
        effect: Effect::Restart,
        doc: "A kernel to boot instead of the image's: a name of `vmm kernel list`, or a file",
        read: |machine, value, problems| set(&mut machine.kernel, value.path(problems).map(Some)),
    },
    Key {
        name: "kernel_parameters",
        kind: Kind::Text,
        effect: Effect::Restart,
        doc: "Parameters to add to the kernel's command line",
        read: |machine, value, problems| {
            set(&mut machine.kernel_parameters, kernel_parameters(value, problems));
        },
    },
    Key {
        name: "env",
        kind: Kind::TextTable,
        effect: Effect::Restart,
        doc: "Variables for every command in the VM. Values are taken as they are: nothing is filled in",
        read: read_env,
    },
    Key {
        name: "pull",
        kind: Kind::Choice(&["missing", "never"]),
        effect: Effect::Nothing,
        doc: "When the image is fetched: missing (when it is not in the store) or never",
        read: |machine, value, problems| {
            let words = [("missing", PullPolicy::Missing), ("never", PullPolicy::Never)];
            set(&mut machine.pull, value.choice(&words, problems));
        },
    },
    Key {
        name: "boot_timeout",
        kind: Kind::Span,
        effect: Effect::Nothing,
        doc: "How long the guest may take to boot",
        read: |machine, value, problems| set(&mut machine.boot_timeout, value.duration(problems)),
    },
    Key {
        name: "provision",
        kind: Kind::Tables(|| json_schema::of_table(SCRIPT, &[])),
        effect: Effect::Nothing,
        doc: "Scripts that run in the VM after its start, in this order",
        read: read_scripts,
    },
    Key {
        name: "health",
        kind: Kind::Table(|| json_schema::of_table(HEALTH, &["command"])),
        effect: Effect::Nothing,
        doc: "A command in the VM that succeeds when it does what it is for; vmm up waits for that",
        read: read_health,
    },
];

/// What a disk may have.
const DISK: &[Key<ProjectDisk>] = &[
    Key {
        name: "path",
        kind: Kind::Text,
        effect: Effect::Nothing,
        doc: "The file",
        read: |disk, value, problems| set(&mut disk.path, value.path(problems).map(Some)),
    },
    Key {
        name: "size",
        kind: Kind::Size,
        effect: Effect::Nothing,
        doc: "Make it so large, such as 20G, where it is not there; without, it must be there",
        read: |disk, value, problems| {
            let size = value.amount("20G", problems);
            set(&mut disk.size, size.map(Some));
        },
    },
    Key {
        name: "read_only",
        kind: Kind::Boolean,
        effect: Effect::Nothing,
        doc: "The guest only reads it; several VMs can",
        read: |disk, value, problems| set(&mut disk.read_only, value.boolean(problems)),
    },
    Key {
        name: "format",
        kind: Kind::Choice(&["raw", "qcow2"]),
        effect: Effect::Nothing,
        doc: "Its format, where its name does not tell it",
        read: |disk, value, problems| {
            let words = [("raw", Format::Raw), ("qcow2", Format::Qcow2)];
            set(&mut disk.format, value.choice(&words, problems).map(Some));
        },
    },
];

/// What a script may have.
const SCRIPT: &[Key<Script>] = &[
    Key {
        name: "name",
        kind: Kind::Text,
        effect: Effect::Nothing,
        doc: "What to call it",
        read: |script, value, problems| {
            set(&mut script.name, value.line(problems).map(|name| Some(name.to_owned())));
        },
    },
    Key {
        name: "run",
        kind: Kind::Choice(&["once", "always"]),
        effect: Effect::Nothing,
        doc: "once: once for each disk; always: after each start",
        read: |script, value, problems| {
            let words = [("once", ScriptRun::Once), ("always", ScriptRun::Always)];
            set(&mut script.run, value.choice(&words, problems));
        },
    },
    Key {
        name: "inline",
        kind: Kind::Text,
        effect: Effect::Nothing,
        doc: "The script itself; without #! it is for sh -e",
        read: |script, value, problems| {
            let Some(text) = value.text(problems) else { return };
            set_source(script, ScriptSource::Inline(text.to_owned()), value, problems);
        },
    },
    Key {
        name: "file",
        kind: Kind::Text,
        effect: Effect::Nothing,
        doc: "The file of the project that the script is in",
        read: |script, value, problems| {
            let Some(path) = value.path(problems) else { return };
            set_source(script, ScriptSource::File(path), value, problems);
        },
    },
    Key {
        name: "user",
        kind: Kind::Text,
        effect: Effect::Nothing,
        doc: "Whom it runs as in the guest, as name or number, perhaps with :group; root where nobody is named",
        read: |script, value, problems| {
            set(&mut script.user, value.line(problems).map(|user| Some(user.to_owned())));
        },
    },
    Key {
        name: "timeout",
        kind: Kind::Span,
        effect: Effect::Nothing,
        doc: "It is ended after so long, and has failed",
        read: |script, value, problems| set(&mut script.timeout, value.duration(problems).map(Some)),
    },
];

/// What a health check may have.
const HEALTH: &[Key<HealthCheck>] = &[
    Key {
        name: "command",
        kind: Kind::Command,
        effect: Effect::Nothing,
        doc: "A line for the shell, or a list of a program and its arguments",
        read: |health, value, problems| set(&mut health.command, value.command(problems)),
    },
    Key {
        name: "interval",
        kind: Kind::Span,
        effect: Effect::Nothing,
        doc: "How long to wait between two attempts",
        read: |health, value, problems| set(&mut health.interval, value.duration(problems)),
    },
    Key {
        name: "timeout",
        kind: Kind::Span,
        effect: Effect::Nothing,
        doc: "How long an attempt may take",
        read: |health, value, problems| set(&mut health.timeout, value.duration(problems)),
    },
    Key {
        name: "retries",
        kind: Kind::Number(0, MOST_RETRIES),
        effect: Effect::Nothing,
        doc: "How often it may fail before vmm up gives up",
        read: |health, value, problems| {
            let count = value.number(0..=MOST_RETRIES, problems);
            set(&mut health.retries, count.and_then(|count| u32::try_from(count).ok()));
        },
    },
];

/// What becomes of a VM when this key of its description changes.
pub(crate) fn effect_of(key: &str) -> Effect {
    MACHINE.iter().find(|known| known.name == key).map_or(Effect::Nothing, |key| key.effect)
}

/// Takes over what was read; what was wrong is noted already.
fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn host_name(value: Value<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let name = value.text(problems)?;
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let good = name.len() <= HOST_NAME_LENGTH
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(inner);
    if !good {
        let told = shortened(name);
        value.wrong(
            problems,
            format!(
                "{told:?} is no host name: use letters, digits, '-' and '.', beginning with a letter or digit"
            ),
        );
    }
    good.then(|| name.to_owned())
}

fn kernel_parameters(value: Value<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let text = value.text(problems)?;
    // Whether it fits beside what the image adds is known when the image is.
    if let Err(error) = CommandLine::new(Arch::host().unwrap_or(Arch::X86_64)).append(text) {
        value.wrong(problems, error);
        return None;
    }
    Some(text.to_owned())
}

fn read_env(machine: &mut MachineDescription, value: Value<'_, '_>, problems: &mut Problems<'_>) {
    let Some(table) = value.table(problems) else { return };
    if table.len() > MOST_ENTRIES {
        value.wrong(problems, format!("there are more than {MOST_ENTRIES} variables"));
        return;
    }
    for (name, text) in table {
        let key = name.get_ref().as_ref();
        if key.is_empty() || key.contains(['=', '\0']) {
            problems.add(name.span().start, format!("{:?} cannot be the name of a variable", shortened(key)));
        }
        if let Some(text) = (Value { key, value: text }).text(problems) {
            machine.env.insert(key.to_owned(), text.to_owned());
        }
    }
}

fn read_disks(machine: &mut MachineDescription, value: Value<'_, '_>, problems: &mut Problems<'_>) {
    let tables = value.tables(problems);
    if tables.len() > MOST_DISKS {
        value.wrong(problems, format!("there are more than {MOST_DISKS} disks"));
        return;
    }
    for value in tables {
        let Some(table) = value.table(problems) else { continue };
        let mut disk = ProjectDisk::default();
        read_table(table, DISK, &mut disk, problems);
        if !table.keys().any(|key| key.get_ref() == "path") {
            value.wrong(problems, "there is no path in it");
        }
        if disk.read_only && disk.size.is_some() {
            value.wrong(problems, "a disk that is only read is not made: leave out size or read_only");
        }
        machine.disks.push(disk);
    }
}

/// Notes what does not go together in a machine's table.
pub(super) fn check_together(table: &DeTable<'_>, machine: &MachineDescription, problems: &mut Problems<'_>) {
    let mut refuse = |key: &str, why: &str| {
        if let Some((name, _)) = table.iter().find(|(name, _)| name.get_ref() == key) {
            problems.add(name.span().start, format!("{key}: {why}"));
        }
    };
    if machine.base_image.is_some() {
        refuse("managed_image", "the disk is made over base_image: leave one of them out");
    }
    if machine.read_only == RootWrites::Memory {
        for key in ["overlay", "disk_size"] {
            refuse(key, "what is written stays in memory: leave it out, or say read_only = \"disk\"");
        }
    }
}

fn read_scripts(machine: &mut MachineDescription, value: Value<'_, '_>, problems: &mut Problems<'_>) {
    let tables = value.tables(problems);
    if tables.len() > MOST_ENTRIES {
        value.wrong(problems, format!("there are more than {MOST_ENTRIES} scripts"));
        return;
    }
    for value in tables {
        let Some(table) = value.table(problems) else { continue };
        let mut script = Script::default();
        read_table(table, SCRIPT, &mut script, problems);
        let named = table.keys().any(|key| ["inline", "file"].contains(&key.get_ref().as_ref()));
        if !named {
            value.wrong(problems, "there is no script in it: write it as inline, or name its file");
        }
        machine.provision.push(script);
    }
}

fn set_source(script: &mut Script, source: ScriptSource, value: Value<'_, '_>, problems: &mut Problems<'_>) {
    if script.source != ScriptSource::Missing {
        value.wrong(problems, "the script is given twice: leave out inline or file");
    }
    script.source = source;
}

fn read_health(machine: &mut MachineDescription, value: Value<'_, '_>, problems: &mut Problems<'_>) {
    let Some(table) = value.table(problems) else { return };
    let mut health = HealthCheck::default();
    read_table(table, HEALTH, &mut health, problems);
    if !table.keys().any(|key| key.get_ref() == "command") {
        value.wrong(problems, "there is no command in it");
    }
    machine.health = Some(health);
}
