//! Kernel modules: which of them a machine needs, and in what order they are loaded.
//!
//! The files that tell are `depmod`'s `modules.dep` and the kernel's `modules.builtin`; both may come from a stranger's
//! image.

use std::collections::{BTreeMap, BTreeSet};

use snafu::{OptionExt, Snafu, ensure};

use super::command_line::CommandLine;
use super::initramfs::Stage;

/// More lines than any distribution's kernel has modules.
const MOST_MODULES: usize = 1 << 16;

/// More modules than any machine of ours loads.
const MOST_PLANNED: usize = 256;

/// Why modules cannot be used.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleError {
    /// A line that `depmod` does not write.
    #[snafu(display("line {line} of {file} cannot be read: {what}"))]
    Line {
        /// The file.
        file: &'static str,
        /// The number of the line.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More than there can be.
    #[snafu(display("{file} has more than {MOST_MODULES} lines"))]
    TooMany {
        /// The file.
        file: &'static str,
    },
    /// The machine cannot do without it.
    #[snafu(display("the kernel has no module {name}, and it is not built in"))]
    Missing {
        /// Its name.
        name: String,
    },
    /// A module needs itself, by way of others.
    #[snafu(display("the module {name} needs itself"))]
    Cycle {
        /// Its name.
        name: String,
    },
    /// More than any machine needs.
    #[snafu(display("more than {MOST_PLANNED} modules would be loaded"))]
    TooLong,
    /// A module for another kernel.
    #[snafu(display("the module {name} is for the kernel {found}, not for {release}"))]
    OtherKernel {
        /// Its name.
        name: String,
        /// The kernel that it is for.
        found: String,
        /// The kernel that boots.
        release: String,
    },
}

type Result<T, E = ModuleError> = std::result::Result<T, E>;

/// The modules of a kernel: which there are, what each needs, what is built in.
#[derive(Clone, Debug, Default)]
pub struct ModuleIndex {
    modules: BTreeMap<String, Module>,
    built_in: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Module {
    path: String,
    needs: Vec<String>,
}

/// The modules that a machine loads, in an order in which each finds what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModulePlan {
    modules: Vec<PlannedModule>,
}

/// A module of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedModule {
    /// When it is loaded.
    pub stage: Stage,
    /// The name of its file once it is unpacked, such as `virtio_blk.ko`.
    pub file_name: String,
    /// Where it lies beneath the kernel's folder of modules, perhaps compressed.
    pub path: String,
}

/// What a machine wants of its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want<'a> {
    /// It does not run without.
    Required(&'a str),
    /// It runs without, or the kernel has it in another way.
    Optional(&'a str),
}

impl ModuleIndex {
    /// Reads `modules.dep` and `modules.builtin`.
    pub fn parse(dependencies: &str, built_in: &str) -> Result<Self> {
        let mut index = Self::default();
        for (number, line) in lines("modules.dep", dependencies)? {
            let refused = |what| LineSnafu { file: "modules.dep", line: number, what };
            let (path, needs) = line.split_once(':').with_context(|| refused("it has no colon"))?;
            let name = module_name(path).with_context(|| refused("it names no module"))?;
            let needs: Option<Vec<String>> = needs.split_whitespace().map(module_name).collect();
            let needs = needs.with_context(|| refused("what it needs is no module"))?;
            index.modules.insert(name, Module { path: path.to_owned(), needs });
        }
        for (number, line) in lines("modules.builtin", built_in)? {
            let refused = LineSnafu { file: "modules.builtin", line: number, what: "it names no module" };
            index.built_in.insert(module_name(line).context(refused)?);
        }
        Ok(index)
    }

    /// The modules for what is wanted at each stage, each with what it needs before it and none twice.
    pub fn plan(&self, wanted: &[(Stage, Want<'_>)]) -> Result<ModulePlan> {
        let mut plan = ModulePlan { modules: Vec::new() };
        let mut planned = BTreeSet::new();
        for (stage, want) in wanted {
            let (Want::Required(name) | Want::Optional(name)) = want;
            let name = normal_name(name);
            if self.built_in.contains(&name) {
                continue;
            }
            if !self.modules.contains_key(&name) {
                ensure!(matches!(want, Want::Optional(_)), MissingSnafu { name });
                continue;
            }
            self.add(&mut plan, &mut planned, *stage, &name)?;
        }
        Ok(plan)
    }

    /// Adds a module behind everything that it needs. The walk keeps its own stack: a hostile file makes long chains.
    fn add(
        &self,
        plan: &mut ModulePlan,
        planned: &mut BTreeSet<String>,
        stage: Stage,
        name: &str,
    ) -> Result<()> {
        let mut open = BTreeSet::new();
        let mut stack = vec![(name.to_owned(), false)];
        while let Some((name, needs_are_planned)) = stack.pop() {
            if planned.contains(&name) || self.built_in.contains(&name) {
                continue;
            }
            let module = self.modules.get(&name).with_context(|| MissingSnafu { name: name.clone() })?;
            if needs_are_planned {
                ensure!(plan.modules.len() < MOST_PLANNED, TooLongSnafu);
                let file_name = format!("{name}.ko");
                plan.modules.push(PlannedModule { stage, file_name, path: module.path.clone() });
                planned.insert(name);
                continue;
            }
            ensure!(open.insert(name.clone()), CycleSnafu { name });
            ensure!(open.len() <= MOST_PLANNED, TooLongSnafu);
            stack.push((name, true));
            // The last is needed by those before it (depmod writes them so), and what is pushed last comes first.
            for needed in &module.needs {
                if !planned.contains(needed) {
                    stack.push((needed.clone(), false));
                }
            }
        }
        Ok(())
    }
}

impl ModulePlan {
    /// The modules, in the order in which they are loaded.
    pub fn modules(&self) -> &[PlannedModule] {
        &self.modules
    }
}

/// Whether a module is for this kernel, by the version in its own `.modinfo` section. A module that tells none is
/// left to the kernel to judge.
pub fn check_release(file_name: &str, module: &[u8], release: &str) -> Result<()> {
    const TAG: &[u8] = b"\0vermagic=";
    let Some(at) = module.windows(TAG.len()).position(|window| window == TAG) else { return Ok(()) };
    let found = module[at + TAG.len()..].iter().take(64).take_while(|byte| byte.is_ascii_graphic());
    let found: String = found.map(|byte| char::from(*byte)).collect();
    ensure!(found == release, OtherKernelSnafu { name: file_name, found, release });
    Ok(())
}

/// A module without the signature at its end (Linux, `include/linux/module_signature.h`). To check one, the kernel reads all of
/// the module and computes with a key of 4096 bits; what it says of modules without is no more than that they have none.
pub fn without_signature(module: &[u8]) -> &[u8] {
    const MARK: &[u8] = b"~Module signature appended~\n";
    // Of three kinds, the lengths of two names, padding; then the signature's length.
    let parts = module.strip_suffix(MARK).and_then(|rest| rest.split_last_chunk::<12>());
    let Some((rest, [_, _, _, 0, 0, _, _, _, length @ ..])) = parts else { return module };
    let end =
        usize::try_from(u32::from_be_bytes(*length)).ok().and_then(|length| rest.len().checked_sub(length));
    end.and_then(|end| rest.get(..end)).unwrap_or(module)
}

/// Whether a kernel with this configuration takes modules without a signature, as long as its command line does not say
/// otherwise.
pub fn takes_unsigned(configuration: &str) -> bool {
    let has = |line: &str| configuration.lines().any(|other| other == line);
    let own_line = configuration.lines().find_map(|line| line.strip_prefix("CONFIG_CMDLINE="));
    // What loads modules and says nothing of signatures is no configuration.
    has("CONFIG_MODULES=y")
        && !has("CONFIG_MODULE_SIG_FORCE=y")
        && !has("CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y")
        && !has("CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY=y")
        && !own_line.is_some_and(CommandLine::wants_signed_modules)
}

/// Lines with their numbers, without comments and empty ones.
fn lines<'a>(file: &'static str, text: &'a str) -> Result<impl Iterator<Item = (usize, &'a str)>> {
    ensure!(text.lines().count() <= MOST_MODULES, TooManySnafu { file });
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
}

/// The name of the module that a path names: no folder, no `.ko`, no compression. The path must stay in its folder.
fn module_name(path: &str) -> Option<String> {
    let relative = !path.starts_with('/') && path.split('/').all(|part| !["", ".", ".."].contains(&part));
    let file = path.rsplit('/').next()?;
    let (name, compression) = file.split_once(".ko")?;
    let known = ["", ".gz", ".xz", ".zst"].contains(&compression);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+".contains(&byte);
    let valid = relative && known && !name.is_empty() && name.len() <= 64 && name.bytes().all(plain);
    valid.then(|| normal_name(name))
}

/// To the kernel, `-` and `_` in the name of a module are the same.
fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEPENDENCIES: &str = "\
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.gz: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.gz kernel/net/vmw_vsock/vsock.ko.gz
kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.gz: kernel/net/vmw_vsock/vsock.ko.gz
kernel/net/vmw_vsock/vsock.ko.gz:
kernel/drivers/char/hw_random/virtio-rng.ko.gz: kernel/drivers/char/hw_random/rng-core.ko.gz
kernel/drivers/char/hw_random/rng-core.ko.gz:
kernel/fs/ext4/ext4.ko.gz: kernel/lib/crc/crc16.ko.gz kernel/fs/mbcache.ko.gz kernel/fs/jbd2/jbd2.ko.gz
kernel/lib/crc/crc16.ko.gz:
kernel/fs/mbcache.ko.gz:
kernel/fs/jbd2/jbd2.ko.gz:
";
    const BUILT_IN: &str = "kernel/drivers/virtio/virtio_mmio.ko\nkernel/drivers/block/virtio_blk.ko\n";

    fn names(plan: &ModulePlan) -> Vec<&str> {
        plan.modules().iter().map(|module| module.file_name.as_str()).collect()
    }

    #[test]
    fn each_module_comes_behind_what_it_needs() {
        let index = ModuleIndex::parse(DEPENDENCIES, BUILT_IN).unwrap();
        let plan = index
            .plan(&[
                (Stage::Vsock, Want::Optional("virtio_mmio")),
                (Stage::Vsock, Want::Required("vmw_vsock_virtio_transport")),
                (Stage::Root, Want::Required("virtio-blk")),
                (Stage::Root, Want::Required("ext4")),
                (Stage::Late, Want::Optional("virtio_rng")),
                (Stage::Late, Want::Optional("virtio_balloon")),
            ])
            .unwrap();
        assert_eq!(
            names(&plan),
            [
                "vsock.ko",
                "vmw_vsock_virtio_transport_common.ko",
                "vmw_vsock_virtio_transport.ko",
                "jbd2.ko",
                "mbcache.ko",
                "crc16.ko",
                "ext4.ko",
                "rng_core.ko",
                "virtio_rng.ko",
            ]
        );
        assert_eq!(plan.modules()[8].path, "kernel/drivers/char/hw_random/virtio-rng.ko.gz");
        assert_eq!(plan.modules()[8].stage, Stage::Late);
    }

    #[test]
    fn what_a_machine_needs_and_the_kernel_lacks_is_named() {
        let index = ModuleIndex::parse(DEPENDENCIES, "").unwrap();
        let error = index.plan(&[(Stage::Root, Want::Required("virtio_blk"))]).unwrap_err();
        assert_eq!(error, ModuleError::Missing { name: "virtio_blk".into() });
        let index = ModuleIndex::parse("a.ko: b.ko\n", "").unwrap();
        let error = index.plan(&[(Stage::Root, Want::Required("a"))]).unwrap_err();
        assert_eq!(error, ModuleError::Missing { name: "b".into() });
    }

    #[test]
    fn modules_that_need_each_other_are_refused() {
        let index = ModuleIndex::parse("a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko\n", "").unwrap();
        let error = index.plan(&[(Stage::Root, Want::Required("a"))]).unwrap_err();
        assert_eq!(error, ModuleError::Cycle { name: "a".into() });
        let index = ModuleIndex::parse("a.ko: a.ko\n", "").unwrap();
        assert!(index.plan(&[(Stage::Root, Want::Required("a"))]).is_err());
    }

    #[test]
    fn a_chain_without_end_is_refused() {
        let chain: String = (0..1000).map(|n| format!("m{n}.ko: m{}.ko\n", n + 1)).collect();
        let index = ModuleIndex::parse(&chain, "").unwrap();
        assert_eq!(index.plan(&[(Stage::Root, Want::Required("m0"))]), Err(ModuleError::TooLong));
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for line in [
            "/etc/a.ko:",
            "../a.ko:",
            "a/../../b.ko:",
            "a.ko",
            "a.txt:",
            ".ko:",
            "a.ko.7z:",
            "a.ko: b",
            "a b.ko:",
        ] {
            assert!(matches!(ModuleIndex::parse(line, ""), Err(ModuleError::Line { line: 1, .. })), "{line}");
        }
        assert!(ModuleIndex::parse("", "/x.ko").is_err());
    }

    #[test]
    fn a_module_for_another_kernel_is_told() {
        let module = b"..\0license=GPL\0vermagic=6.18.56-0-virt SMP preempt mod_unload \0..";
        assert!(check_release("a.ko", module, "6.18.56-0-virt").is_ok());
        let error = check_release("a.ko", module, "6.18.57-0-virt").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the module a.ko is for the kernel 6.18.56-0-virt, not for 6.18.57-0-virt"
        );
    }

    #[test]
    fn a_signature_is_taken_off_and_nothing_else() {
        let signed = |names: [u8; 2], length: u32| {
            let header = [&[0, 0, 2, names[0], names[1], 0, 0, 0][..], &length.to_be_bytes()].concat();
            [b"module", &b"signature"[..], &header, b"~Module signature appended~\n"].concat()
        };
        assert_eq!(without_signature(&signed([0, 0], 9)), b"module");
        assert_eq!(without_signature(&signed([0, 0], 15)), b"");
        // Longer than the file, and one with names, as none has been for years.
        for odd in [signed([0, 0], 16), signed([0, 0], u32::MAX), signed([1, 0], 9), signed([0, 1], 9)] {
            assert_eq!(without_signature(&odd), odd);
        }
        for plain in
            [&b""[..], b"module", b"~Module signature appended~\n", b"short~Module signature appended~\n"]
        {
            assert_eq!(without_signature(plain), plain);
        }
    }

    #[test]
    fn a_kernel_that_may_ask_for_signatures_keeps_them() {
        let usual = "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set\n";
        assert!(takes_unsigned(usual));
        for strict in [
            "CONFIG_MODULE_SIG_FORCE=y",
            "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y",
            "CONFIG_CMDLINE=\"quiet module.sig_enforce=1\"",
        ] {
            assert!(!takes_unsigned(&format!("{usual}{strict}\n")), "{strict}");
        }
        assert!(!takes_unsigned("") && !takes_unsigned("no configuration"));
    }

    proptest! {
        #[test]
        fn whatever_needs_what_the_order_is_topological(
            edges in proptest::collection::vec((0_usize..40, 0_usize..40), 0..120),
            wanted in proptest::collection::vec(0_usize..40, 1..6),
        ) {
            // Given modules of which each needs only later ones, in any order on its line.
            let mut needs = vec![BTreeSet::new(); 40];
            for (from, to) in edges {
                if from < to {
                    needs[from].insert(to);
                }
            }
            let line = |(from, to): (usize, &BTreeSet<usize>)| {
                let to: String = to.iter().map(|to| format!(" m{to}.ko")).collect();
                format!("m{from}.ko:{to}\n")
            };
            let text: String = needs.iter().enumerate().map(line).collect();
            let wanted: Vec<String> = wanted.iter().map(|n| format!("m{n}")).collect();
            let wanted: Vec<_> = wanted.iter().map(|name| (Stage::Late, Want::Required(name.as_str()))).collect();
            // When they are planned.
            let plan = ModuleIndex::parse(&text, "").unwrap().plan(&wanted).unwrap();
            // Then each comes once, behind what it needs.
            let order: Vec<usize> =
                names(&plan).iter().map(|name| name[1..name.len() - 3].parse().unwrap()).collect();
            for (at, module) in order.iter().enumerate() {
                prop_assert!(!order[..at].contains(module));
                prop_assert!(needs[*module].iter().all(|needed| order[..at].contains(needed)));
            }
        }

        #[test]
        fn no_text_breaks_the_parser(dependencies in "[a-c.:/ko\n -]{0,200}", built_in in "\\PC{0,60}") {
            if let Ok(index) = ModuleIndex::parse(&dependencies, &built_in) {
                let _ = index.plan(&[(Stage::Root, Want::Required("a")), (Stage::Late, Want::Optional("b"))]);
            }
        }
    }
}
