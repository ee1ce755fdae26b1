//! Pulls from a real web server, nginx, on this machine: what it was asked for is in its log.
//!
//! Where nginx is missing, these tests say so and are skipped; `cargo xtask setup test` installs it.

use std::fs;
use std::io::{BufRead, BufReader, IoSlice};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use vmm_disk::{Format, LayerSpec};

use super::super::super::testing::{fake, hasty_store, on_a_web_server, published, root_file_system};
use super::*;
use crate::arch::Arch;
use crate::boot::testing::{bzimage, elf_kernel, gzip};
use crate::image::{ImageStore, Progress, PullMode, Pulled, Thoroughness};

/// Where Debian has it, which is not on everybody's path.
const PROGRAMS: [&str; 3] = ["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// A web server with a folder of files.
struct Nginx {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Nginx {
    /// Starts one whose connections bring so many bytes a second, if any number is given. `None`: there is no nginx.
    fn start(rate: Option<&str>) -> Option<Self> {
        let rate = rate.map(|rate| format!("limit_rate {rate};"));
        Self::start_with("", &rate.unwrap_or_default())
    }

    /// Starts one that proves with this key and certificate who it is.
    fn start_secure(keys: &Path) -> Option<Self> {
        let keys = keys.display();
        Self::start_with(
            "ssl",
            &format!("ssl_certificate {keys}/leaf.pem; ssl_certificate_key {keys}/leaf.key;"),
        )
    }

    fn start_with(kind: &str, settings: &str) -> Option<Self> {
        let runs = |program: &&&str| Command::new(program).arg("-v").stderr(Stdio::null()).status().is_ok();
        let Some(program) = PROGRAMS.iter().find(runs) else {
            println!("skipped: nginx is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        // Another process may take the port before nginx does: then nginx ends, and another one is tried.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let configuration = configuration(folder.path(), &format!("127.0.0.1:{port} {kind}"), settings);
            fs::write(folder.path().join("nginx.conf"), configuration).unwrap();
            let mut child = Command::new(program)
                .arg("-p")
                .arg(folder.path())
                .args(["-c", "nginx.conf", "-e", "error.log"])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            loop {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(Self { folder, port, child });
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::yield_now();
            }
        }
        panic!("nginx does not start");
    }

    fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn put(&self, path: &str, contents: &[u8]) {
        let path = self.folder.path().join("root").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// For each request for a path: the status, the range that was asked for, and how many bytes were sent.
    fn log_of(&self, path: &str) -> Vec<(u16, String)> {
        let log = fs::read_to_string(self.folder.path().join("access.log")).unwrap();
        let lines = log.lines().filter_map(|line| {
            let mut words = line.split(' ');
            (words.next() == Some(path)).then_some(words)
        });
        lines
            .map(|mut words| (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned()))
            .collect()
    }

    /// Lets nginx end, so that its log is complete.
    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

fn configuration(folder: &Path, listen: &str, settings: &str) -> String {
    let folder = folder.display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = kinds.iter().map(|kind| format!("{kind}_temp_path {folder}/{kind};\n")).collect();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "{user}
daemon off;
master_process off;
pid {folder}/pid;
events {{}}
http {{
  log_format ranges '$uri $status $http_range';
  access_log {folder}/access.log ranges;
  {temporary}
  server {{ listen {listen}; root {folder}/root; {settings} }}
}}
"
    )
}

fn pull(store: &ImageStore, mode: PullMode) -> Result<Pulled, String> {
    store.pull(&fake(), Arch::X86_64, mode, &()).map_err(|error| error.to_string())
}

/// The folder and the server's address of a pull in another process.
const HOME: &str = "VMM_TEST_PULL_HOME";
const BASE: &str = "VMM_TEST_PULL_BASE";

/// Says how far it is, a line for each look at it.
struct Aloud;

impl Progress for Aloud {
    fn step(&self, step: Step<'_>) {
        println!("\n{} {}", step.subject, step.done);
    }
}

#[test]
#[ignore = "is what another test starts and kills"]
fn a_pull_in_a_process_of_its_own() {
    let home = PathBuf::from(std::env::var_os(HOME).expect("only with a home"));
    let (catalog, _) = on_a_web_server(&std::env::var(BASE).expect("only with a server"));
    let store = hasty_store(&home, catalog);
    store.pull(&fake(), Arch::X86_64, PullMode::IfMissing, &Aloud).unwrap();
}

/// Starts a pull and kills it when it has so many bytes of the disk.
fn pull_and_kill(home: &Path, base: &str, at: u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "image::source::url::nginx_tests::a_pull_in_a_process_of_its_own"])
        .args(["--ignored", "--nocapture"])
        .env(HOME, home)
        .env(BASE, base)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let far_enough = |line: &str| {
        line.strip_prefix("rootfs ").is_some_and(|done| done.parse::<u64>().is_ok_and(|done| done >= at))
    };
    let seen = lines.map_while(Result::ok).any(|line| far_enough(&line));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "the pull ended before it had {at} bytes");
}

#[test]
fn a_pull_that_is_killed_ten_times_asks_for_the_missing_bytes_only() {
    let Some(mut nginx) = Nginx::start(Some("2m")) else { return };
    let (catalog, files) = on_a_web_server(&nginx.base());
    for (name, contents) in &files {
        nginx.put(name, contents);
    }
    let size = files[1].1.len() as u64;
    let home = tempfile::tempdir().unwrap();
    let store = hasty_store(home.path(), catalog);
    let (data, _) = store.downloads.places_of(&format!("{}/disk", nginx.base())).unwrap();
    // When a pull is killed at ten moments, each later than the one before, and none the same in two runs.
    let mut random = [0; 10];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).unwrap();
    let mut expected = vec!["-".to_owned()];
    for (number, random) in (0_u64..).zip(random) {
        let least = fs::metadata(&data).map_or(0, |metadata| metadata.len());
        // The last of them comes early enough to be before the end, however late the kill comes.
        let step = size * 7 / 100;
        let at = (step * number + step * u64::from(random) / 256).max(least + 1);
        pull_and_kill(home.path(), &nginx.base(), at);
        let length = fs::metadata(&data).unwrap().len();
        assert!(length >= at && length < size, "{length}");
        assert!(store.find(&fake(), Arch::X86_64).is_err());
        expected.push(format!("bytes={length}-"));
    }
    // Then the next one ends, with an image that is good to the last byte.
    let pulled = pull(&store, PullMode::IfMissing).unwrap();
    store.verify(&pulled.image, Thoroughness::Full).unwrap();
    assert!(!data.exists());
    nginx.stop();
    let asked = nginx.log_of("/disk");
    let ranges: Vec<&String> = asked.iter().map(|(_, range)| range).collect();
    assert_eq!(ranges, expected.iter().collect::<Vec<_>>());
    assert!(asked[1..].iter().all(|(status, _)| *status == 206), "{asked:?}");
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_whole() {
    let Some(mut nginx) = Nginx::start(Some("2m")) else { return };
    let (catalog, files) = on_a_web_server(&nginx.base());
    nginx.put("kernel", &files[0].1);
    nginx.put("disk", &vec![1; files[1].1.len()]);
    let home = tempfile::tempdir().unwrap();
    pull_and_kill(home.path(), &nginx.base(), 1 << 20);
    let shorter = files[1].1.len() - 1;
    nginx.put("disk", &vec![2; shorter]);
    let store = hasty_store(home.path(), catalog);
    let error = pull(&store, PullMode::IfMissing).unwrap_err();
    assert!(error.ends_with(&format!("its size is {shorter} instead of {}", files[1].1.len())), "{error}");
    nginx.put("disk", &files[1].1);
    pull(&store, PullMode::IfMissing).unwrap();
    nginx.stop();
    let statuses: Vec<u16> = nginx.log_of("/disk").into_iter().map(|(status, _)| status).collect();
    assert_eq!(statuses, [200, 200, 200]);
}

#[test]
fn what_is_downloaded_first_is_pulled_without_a_network() {
    let Some(mut nginx) = Nginx::start(None) else { return };
    let (catalog, files) = on_a_web_server(&nginx.base());
    for (name, contents) in &files {
        nginx.put(name, contents);
    }
    let home = tempfile::tempdir().unwrap();
    let store = hasty_store(home.path(), catalog);
    let download = || store.download(&fake(), Arch::X86_64, &()).unwrap();
    assert!(download().fetched);
    assert!(!download().fetched);
    assert!(store.list().unwrap().is_empty());
    nginx.stop();
    assert!(pull(&store, PullMode::IfMissing).unwrap().fetched);
    assert!(!download().fetched);
    // A full store needs no network, and an empty one says what is missing and what is here.
    assert!(!pull(&store, PullMode::IfMissing).unwrap().fetched);
    let error = pull(&store, PullMode::Force).unwrap_err();
    let expected = format!(
        "no network (the server refuses the connection): {}/disk is missing here; cached are \
         fake:1.2.3-20260102-abcdef0",
        nginx.base()
    );
    assert_eq!(error, expected);
    // And all of it is in the log.
    let log = fs::read_to_string(home.path().join("images/pull.log")).unwrap();
    let outcomes: Vec<String> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["outcome"].to_string())
        .collect();
    let expected =
        ["downloaded", "cached", "pulled", "cached", "cached", "failed"].map(|word| format!("{word:?}"));
    assert_eq!(outcomes, expected);
}

#[test]
fn a_file_with_a_wrong_checksum_is_refused_and_not_kept() {
    let Some(nginx) = Nginx::start(None) else { return };
    let (catalog, files) = on_a_web_server(&nginx.base());
    nginx.put("kernel", &files[0].1);
    nginx.put("disk", &vec![1; files[1].1.len()]);
    let home = tempfile::tempdir().unwrap();
    let store = hasty_store(home.path(), catalog);
    let error = pull(&store, PullMode::IfMissing).unwrap_err();
    assert!(error.contains("/disk is not what the catalog promises: its SHA-256 is"), "{error}");
    let (data, _) = store.downloads.places_of(&format!("{}/disk", nginx.base())).unwrap();
    assert!(!data.exists() && store.list().unwrap().is_empty());
}

/// Makes a certificate authority, and a key and a certificate of it for this machine. `false`: there is no openssl.
fn make_keys(folder: &Path) -> bool {
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=vmm-test";
    let orders = [
        format!("req -x509 {new_key} -keyout authority.key -out authority.pem -days 2"),
        format!("req {new_key} -keyout leaf.key -out leaf.csr"),
        "x509 -req -in leaf.csr -CA authority.pem -CAkey authority.key -CAcreateserial -extfile names -days 2 \
         -out leaf.pem"
            .to_owned(),
    ];
    for order in orders {
        let Ok(made) = Command::new("openssl").args(order.split_whitespace()).current_dir(folder).output()
        else {
            println!("skipped: openssl is not installed");
            return false;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    true
}

#[test]
fn a_secure_server_must_prove_who_it_is() {
    let keys = tempfile::tempdir().unwrap();
    if !make_keys(keys.path()) {
        return;
    }
    let Some(nginx) = Nginx::start_secure(keys.path()) else { return };
    let (catalog, files) = on_a_web_server(&format!("https://127.0.0.1:{}", nginx.port));
    for (name, contents) in &files {
        nginx.put(name, contents);
    }
    let home = tempfile::tempdir().unwrap();
    let mut store = hasty_store(home.path(), catalog);
    // Nobody knows its authority.
    let error = pull(&store, PullMode::IfMissing).unwrap_err();
    assert!(error.contains("its certificate or encryption is refused"), "{error}");
    // Unless its user names it.
    store.network.authorities = Some(keys.path().join("names"));
    let error = pull(&store, PullMode::IfMissing).unwrap_err();
    assert!(error.contains("(SSL_CERT_FILE) cannot be used: there are none in it"), "{error}");
    store.network.authorities = Some(keys.path().join("authority.pem"));
    let pulled = pull(&store, PullMode::IfMissing).unwrap();
    store.verify(&pulled.image, Thoroughness::Full).unwrap();
}

/// The layout of Alpine's disks for clouds.
const CLOUD_DISK: &str = "alpine/v3.23/releases/cloud/nocloud_alpine-3.23.0-x86_64-bios-cloudinit-r0.qcow2";

/// A disk as Alpine's project publishes them: qcow2, no partitions, the kernel in the root file system. `None`: the
/// tools of ext4 are missing.
fn cloud_disk(folder: &Path) -> Option<Vec<u8>> {
    let (raw, kernel) = (folder.join("root.ext4"), folder.join("vmlinuz-virt"));
    fs::write(&raw, root_file_system()).unwrap();
    fs::write(&kernel, bzimage(&gzip(&elf_kernel(super::super::super::testing::RELEASE)))).unwrap();
    let write = format!("write {} /boot/vmlinuz-virt", kernel.display());
    for order in ["mkdir /boot", &write] {
        let debugfs = Command::new("debugfs").args(["-w", "-R", order]).arg(&raw).output();
        if debugfs.is_err() {
            println!("skipped: the tools of ext4 are not installed");
            return None;
        }
    }
    let (bytes, path) = (fs::read(&raw).unwrap(), folder.join("disk.qcow2"));
    let _ = fs::remove_file(&path);
    vmm_disk::create_overlay(&path, bytes.len() as u64).unwrap();
    let layer = LayerSpec { path: path.clone(), format: Format::Qcow2 };
    let disk = vmm_disk::open_chain(&[layer], false).unwrap();
    disk.write(&[IoSlice::new(&bytes)], 0).unwrap();
    disk.flush().unwrap();
    drop(disk);
    Some(fs::read(path).unwrap())
}

fn sha512(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_disk_that_its_publisher_vouches_for_is_trusted_on_first_use() {
    let Some(nginx) = Nginx::start(None) else { return };
    let tools = tempfile::tempdir().unwrap();
    let Some(disk) = cloud_disk(tools.path()) else { return };
    let name = CLOUD_DISK.rsplit('/').next().unwrap();
    let publish = |disk: &[u8], promised: &[u8]| {
        nginx.put(CLOUD_DISK, disk);
        nginx.put(&format!("{CLOUD_DISK}.sha512"), format!("{}  {name}\n", sha512(promised)).as_bytes());
    };
    let home = tempfile::tempdir().unwrap();
    let store = hasty_store(home.path(), published(format!("{}/{CLOUD_DISK}", nginx.base())));
    let forget = |pulled: &Pulled| {
        store.remove(&pulled.image).unwrap();
        store.layers().remove(pulled.image.layer()).unwrap();
    };

    // A disk that is not what is promised is refused, and nothing of it is kept or trusted.
    publish(&disk, b"another disk");
    let error = pull(&store, PullMode::IfMissing).unwrap_err();
    assert!(error.contains("is not what its publisher promises"), "{error}");
    assert!(store.downloads.prune(true).unwrap().is_empty());

    // What is promised at first is pulled, boots by the kernel in it, and is promised again.
    publish(&disk, &disk);
    let pulled = pull(&store, PullMode::IfMissing).unwrap();
    store.verify(&pulled.image, Thoroughness::Full).unwrap();
    assert_eq!(pulled.image.kernel_release(), super::super::super::testing::RELEASE);
    forget(&pulled);
    let pulled = pull(&store, PullMode::IfMissing).unwrap();
    forget(&pulled);

    // Another promise later is an error that says so, and says where what is trusted is recorded.
    let mut other = disk.clone();
    other.extend([0; 512]);
    publish(&other, &other);
    let error = pull(&store, PullMode::IfMissing).unwrap_err();
    assert!(error.contains("promises another file than when it was first fetched here"), "{error}");
    assert!(error.contains(&sha512(&disk)) && error.contains(&sha512(&other)), "{error}");
    let record = fs::read_dir(store.trust()).unwrap().next().unwrap().unwrap().path();
    assert!(error.contains(&format!("remove {} to trust the new one", record.display())), "{error}");
    fs::remove_file(record).unwrap();
    pull(&store, PullMode::IfMissing).unwrap();

    // A list without the disk's name is an error of its own.
    nginx.put(&format!("{CLOUD_DISK}.sha512"), b"<html></html>");
    let error = pull(&store, PullMode::Force).unwrap_err();
    assert!(error.starts_with(&format!("cannot find the checksum of {name} in ")), "{error}");
}
