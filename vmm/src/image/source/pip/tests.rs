use std::os::unix::process::ExitStatusExt;

use super::super::super::testing::{Fake, fake};
use super::super::super::{ImageError, PullMode};
use super::*;
use crate::arch::Arch;

fn pull_with(script: &str) -> (Fake, ImageError) {
    let home = Fake::new();
    home.let_pip(script);
    let error = home.store().pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap_err();
    assert_eq!(home.files(), [] as [PathBuf; 0], "{error}");
    (home, error)
}

#[test]
fn without_a_network_the_error_says_what_is_missing_and_what_is_here() {
    let (home, error) = pull_with(
        "echo \"Could not fetch URL https://index/fake/: connection error: [Errno -3] Temporary failure in name \
         resolution\"; echo 'ERROR: No matching distribution found for fake==1.0' >&2; exit 1",
    );
    assert_eq!(
        error.to_string(),
        "no network (host names cannot be resolved): the Python package fake 1.0 is missing here; no image is cached"
    );
    assert_eq!(home.runs(), 1, "without a network nothing is tried twice");
}

#[test]
fn what_is_cached_is_told_when_the_network_is_gone() {
    let home = Fake::new();
    let store = home.store();
    store.pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap();
    home.let_pip("echo 'connection error: [Errno 101] Network is unreachable'; exit 1");
    let error = store.pull(&fake(), Arch::X86_64, PullMode::Force, &()).unwrap_err().to_string();
    assert!(error.starts_with("no network (the network cannot be reached)"), "{error}");
    assert!(error.ends_with("cached are fake:1.2.3-20260102-abcdef0"), "{error}");
    // And what is cached works.
    assert!(!store.pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap().fetched);
}

#[test]
fn a_download_that_breaks_off_is_begun_again_but_not_for_ever() {
    let broken = "/usr/bin/head -c 1000 \"$tools/$wheel\" >\"$dest/$wheel.part\"; \
                  echo 'ERROR: IncompleteRead(1000 bytes read)'; exit 2";
    let (home, error) = pull_with(broken);
    assert_eq!(
        error.to_string(),
        "cannot fetch the Python package fake 1.0 with python3 -m pip: the connection broke"
    );
    assert_eq!(home.runs(), ATTEMPTS);
    // When it breaks off once only.
    let once = format!(
        "if [ ! -e \"$tools/broken\" ]; then : >\"$tools/broken\"; {broken}; fi; \
         /bin/cp \"$tools/$wheel\" \"$dest/$wheel\""
    );
    home.let_pip(&once);
    assert!(home.store().pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap().fetched);
}

#[test]
fn what_pip_says_last_is_told_when_nothing_else_is_known() {
    let (_home, error) = pull_with("echo 'ERROR: the \u{1b}[31mdisk is on fire'; echo '  trace'; exit 2");
    assert_eq!(
        error.to_string(),
        "cannot fetch the Python package fake 1.0 with python3 -m pip: the [31mdisk is on fire"
    );
    let (_home, error) = pull_with("kill -9 $$");
    assert!(error.to_string().ends_with("it said nothing"), "{error}");
    let (_home, error) = pull_with(": >\"$dest/other.whl\"");
    assert!(error.to_string().ends_with("it fetched another file than the one that is wanted"), "{error}");
}

#[test]
fn without_pip_the_error_says_how_to_install_it() {
    let home = Fake::new();
    home.let_pip("echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    let pull = || home.store().pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap_err().to_string();
    assert_eq!(
        pull(),
        "pip is missing, which fetches the Python package fake 1.0: install it with `python3 -m ensurepip`"
    );
    fs::copy(home.tools.path().join("python3"), home.tools.path().join("apt-get")).unwrap();
    assert!(pull().contains("apt-get install python3-pip`"), "{}", pull());
}

#[test]
fn the_next_command_serves_where_the_first_has_no_pip() {
    let home = Fake::new();
    fs::rename(home.tools.path().join("python3"), home.tools.path().join("pip3")).unwrap();
    home.let_pip("echo 'No module named pip' >&2; exit 1");
    assert!(home.store().pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap().fetched);
    assert_eq!(home.runs(), 2);
}

#[test]
fn every_way_to_have_no_network_is_told_from_other_failures() {
    let failed = ExitStatus::from_raw(1 << 8);
    for line in [
        "NewConnectionError('Failed to establish a new connection: [Errno 111] Connection refused')",
        "NewConnectionError('Failed to establish a new connection: [Errno 113] No route to host')",
        "ConnectTimeoutError('Connection to index timed out. (connect timeout=10.0)')",
        "ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed'))",
        "NameResolutionError(\"Failed to resolve 'index' ([Errno -2] Name or service not known)\")",
        "  Caused by: dns error: failed to lookup address information",
        "  Caused by: tcp connect error",
    ] {
        assert!(matches!(judge(failed, line, false, false), Outcome::Offline(_)), "{line}");
    }
    for line in
        ["ERROR: No matching distribution found for fake==1.0", "ERROR: 404 Client Error: Not Found", ""]
    {
        assert!(matches!(judge(failed, line, false, false), Outcome::Failed(_)), "{line}");
    }
    assert!(matches!(
        judge(failed, "ReadTimeoutError: Read timed out.", false, true),
        Outcome::Interrupted(_)
    ));
}

#[test]
fn who_may_have_told_pip_of_an_index_here_is_heard() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 box\n").unwrap();
    let with = |variables: &[(&str, &str)]| {
        let places = [("HOME", root.join("home")), ("VIRTUAL_ENV", root.join("venv"))];
        let places = places.into_iter().map(|(name, place)| (name.into(), place.into()));
        let others = variables.iter().map(|(name, value)| (name.into(), value.into()));
        has_settings(root, &places.chain(others).collect::<Vec<_>>())
    };
    let settings = || with(&[]);
    assert!(!settings());
    for (name, value, here) in [
        ("PIP_INDEX_URL", "https://mirror.example/simple", false),
        ("PIP_INDEX_URL", "http://box:3141/simple", true),
        ("https_proxy", "http://localhost:3128", true),
        ("no_proxy", "localhost", false),
        ("GREETING", "localhost", false),
        ("XDG_CONFIG_DIRS", "/somewhere", true),
        ("XDG_CONFIG_DIRS", "", false),
    ] {
        assert_eq!(with(&[(name, value)]), here, "{name}={value}");
    }
    for place in ["etc", "etc/xdg/pip", "usr", "usr/local", "home/.config/pip", "home/.pip", "venv"] {
        fs::create_dir_all(root.join(place)).unwrap();
        let file = root.join(place).join("pip.conf");
        for (text, here) in [
            ("[global]\nindex-url = https://mirror.example/simple", false),
            ("[global]\nindex-url = http://127.0.0.1:3141/simple", true),
            ("[global]\nproxy = LocalHost:3128", true),
            ("[install]\nfind-links = /srv/wheels", true),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(settings(), here, "{place}: {text}");
        }
        fs::remove_file(file).unwrap();
    }
    let hosts = "127.0.0.1 localhost\n127.0.1.1 Box.example box # us\n10.0.0.1 far\n::1 ip6-loopback";
    let words = words_of_here(hosts);
    for (word, here) in
        [("box.example", true), ("box", true), ("ip6-loopback", true), ("far", false), ("us", false)]
    {
        assert_eq!(words.iter().any(|known| known == word), here, "{word}");
    }
}
