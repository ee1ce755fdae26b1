//! A file on a web server whose publisher says its checksum beside it, and the catalog does not.
//!
//! It is trusted on first use: the checksum that the publisher tells then is recorded, and one that differs later is an
//! error that says so. Who stands between us and the publisher at first use can give us anything; whoever comes later
//! cannot.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};
use snafu::ResultExt;

use super::super::catalog::Pin;
use super::super::digest::Digest;
use super::super::error::{
    DamagedTrustSnafu, NewerSnafu, NoChecksumSnafu, NotPublishedSnafu, Result, StorageSnafu,
    TrustChangedSnafu,
};
use super::super::progress::{Stage, Step};
use super::super::record::Refusal;
use super::super::{files, record};
use super::Workshop;
use super::url::{Size, download_good, download_text, key_of};

/// No publisher's file of checksums is larger.
const LARGEST_LIST: u64 = 1 << 20;

/// A file and its publisher's checksum.
#[derive(Debug)]
pub(in crate::image) struct Published {
    /// Where the file is.
    pub(in crate::image) url: &'static str,
    /// Where its checksum is: a file as `sha256sum` or `sha512sum` writes it, of this file or of many.
    pub(in crate::image) checksums: &'static str,
    /// No release of it is larger.
    pub(in crate::image) largest: u64,
}

/// What was promised at first use.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trusted {
    url: String,
    /// The checksum, as the publisher wrote it.
    promised: String,
    size: u64,
    sha256: Digest,
}

/// The checksums of a file's contents.
struct Sums {
    pin: Pin,
    sha512: String,
}

impl Published {
    /// Puts the file's bytes into a new file, if they are what the publisher promises now and promised first. `trust`
    /// is the folder where that is recorded.
    pub(in crate::image) fn fetch(
        &self,
        workshop: &Workshop<'_>,
        trust: &Path,
        destination: &Path,
    ) -> Result<Pin> {
        let record = self.record_in(trust);
        let trusted = self.read(&record)?;
        // What was fetched before and is what was trusted then needs no network.
        if let Some(trusted) = &trusted
            && workshop.downloads.take(trusted.sha256, destination)?
        {
            let pin = Pin { size: trusted.size, sha256: trusted.sha256 };
            if pin.check(destination, self.url, workshop.progress).is_ok() {
                return Ok(pin);
            }
            files::remove_file(destination)?;
        }
        let checksum = self.checksum(workshop)?;
        let size = match &trusted {
            Some(trusted) if trusted.promised != checksum => {
                let trusted = trusted.promised.clone();
                return TrustChangedSnafu { url: self.url, trusted, published: checksum, record }.fail();
            }
            Some(trusted) => Size::Exactly(trusted.size),
            None => Size::AtMost(self.largest),
        };
        let sums = |path: &Path| self.sums(path, workshop);
        let good = |path: &Path| sums(path).is_ok_and(|sums| sums.is(&checksum));
        let complete = download_good(self.url, size, workshop, good)?;
        let sums = sums(complete.path())?;
        if !sums.is(&checksum) {
            complete.discard()?;
            let found = sums.like(&checksum);
            return NotPublishedSnafu { url: self.url, found, expected: checksum }.fail();
        }
        complete.finish(destination)?;
        if trusted.is_none() {
            let Pin { size, sha256 } = sums.pin;
            write(&record, &Trusted { url: self.url.to_owned(), promised: checksum, size, sha256 })?;
        }
        Ok(sums.pin)
    }

    /// What is trusted, if this was fetched before.
    pub(in crate::image) fn trusted(&self, trust: &Path) -> Result<Option<Pin>> {
        let trusted = self.read(&self.record_in(trust))?;
        Ok(trusted.map(|trusted| Pin { size: trusted.size, sha256: trusted.sha256 }))
    }

    fn checksum(&self, workshop: &Workshop<'_>) -> Result<String> {
        let text = download_text(self.checksums, LARGEST_LIST, workshop)?;
        let name = self.url.rsplit('/').next().unwrap_or(self.url);
        find(&text, name).or_else(|reason| NoChecksumSnafu { name, url: self.checksums, reason }.fail())
    }

    fn record_in(&self, trust: &Path) -> PathBuf {
        trust.join(format!("{}.json", key_of(self.url)))
    }

    fn read(&self, path: &Path) -> Result<Option<Trusted>> {
        let Some(bytes) = files::read(path, record::LARGEST)? else { return Ok(None) };
        match record::from_bytes::<Trusted>(&bytes) {
            Ok(trusted) if trusted.url == self.url => Ok(Some(trusted)),
            Ok(_) => DamagedTrustSnafu { path, what: "it is about another file" }.fail(),
            Err(Refusal::Newer) => NewerSnafu { path }.fail(),
            Err(Refusal::Damaged(what)) => DamagedTrustSnafu { path, what }.fail(),
        }
    }

    /// Reads the file once for all checksums.
    fn sums(&self, path: &Path, workshop: &Workshop<'_>) -> Result<Sums> {
        let storage = StorageSnafu { action: "read", path };
        let mut file = File::open(path).context(storage)?;
        let total = file.metadata().context(storage)?.len();
        let (mut sha256, mut sha512, mut size) = (Sha256::new(), Sha512::new(), 0);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut buffer).context(storage)?;
            if count == 0 {
                break;
            }
            sha256.update(&buffer[..count]);
            sha512.update(&buffer[..count]);
            size += count as u64;
            let step = Step { stage: Stage::Verifying, subject: self.url, done: size, total: Some(total) };
            workshop.progress.step(step);
        }
        let sha256 = Digest::from_bytes(sha256.finalize().into());
        let sha512 = sha512.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Sums { pin: Pin { size, sha256 }, sha512 })
    }
}

impl Sums {
    fn is(&self, checksum: &str) -> bool {
        self.like(checksum) == checksum
    }

    /// That of the same kind, told by the number of digits.
    fn like(&self, checksum: &str) -> String {
        if checksum.len() == SHA256_DIGITS { self.pin.sha256.to_string() } else { self.sha512.clone() }
    }
}

const SHA256_DIGITS: usize = 64;
const SHA512_DIGITS: usize = 128;

/// The checksum of a file in what a publisher writes: nothing but the checksum, `CHECKSUM  NAME` or `CHECKSUM *NAME`
/// (`sha512sum`), or `SHA512 (NAME) = CHECKSUM` (`sha512sum --tag`), a line for each file.
fn find(text: &str, name: &str) -> Result<String, &'static str> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let [only] = lines.as_slice()
        && let Some(checksum) = checksum(only)
    {
        return Ok(checksum);
    }
    let mut found = lines.iter().filter_map(|line| {
        let (sum, named) = match line.strip_prefix("SHA256 (").or(line.strip_prefix("SHA512 (")) {
            Some(tagged) => tagged.rsplit_once(") = ").map(|(named, sum)| (sum, named))?,
            None => line.split_once(char::is_whitespace)?,
        };
        let named = named.trim_start().trim_start_matches('*');
        let named = named.strip_prefix("./").unwrap_or(named);
        (named == name).then(|| checksum(sum)).flatten()
    });
    let first = found.next().ok_or("it names no SHA-256 or SHA-512 of that")?;
    if found.all(|other| other == first) { Ok(first) } else { Err("it names several") }
}

/// A SHA-256 or SHA-512, in small letters.
fn checksum(text: &str) -> Option<String> {
    let good = [SHA256_DIGITS, SHA512_DIGITS].contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| text.to_ascii_lowercase())
}

/// Records what is trusted from now on.
fn write(path: &Path, trusted: &Trusted) -> Result<()> {
    if let Some(folder) = path.parent() {
        files::make_folder(folder)?;
    }
    let bytes = record::to_bytes(trusted)
        .map_err(std::io::Error::from)
        .context(StorageSnafu { action: "record", path })?;
    let partial = files::partial_of(path);
    files::remove_file(&partial)?;
    files::write_new(&partial, &bytes)?;
    files::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_list_breaks_the_search_and_what_it_finds_is_a_checksum(
            text in "(\\PC{0,20}|[0-9a-f]{128}|SHA512 \\(|  disk|\\) = |\n){0,8}"
        ) {
            if let Ok(found) = find(&text, "disk") {
                prop_assert!(checksum(&found).is_some());
            }
        }
    }

    #[test]
    fn a_checksum_is_found_in_every_form_that_publishers_write() {
        let (sum, other) = ("a1".repeat(64), "b2".repeat(64));
        for text in [
            sum.clone(),
            format!("{sum}\n"),
            sum.to_ascii_uppercase(),
            format!("{sum}  disk.qcow2\n"),
            format!("{sum} *disk.qcow2"),
            format!("{other}  other.qcow2\n{sum}  ./disk.qcow2\n"),
            format!("# comment\nSHA512 (other.qcow2) = {other}\nSHA512 (disk.qcow2) = {sum}\n"),
        ] {
            assert_eq!(find(&text, "disk.qcow2").as_deref(), Ok(sum.as_str()), "{text}");
        }
        assert_eq!(find(&format!("{}  disk.qcow2", "c3".repeat(32)), "disk.qcow2"), Ok("c3".repeat(32)));
    }

    #[test]
    fn a_checksum_that_is_not_clear_is_refused() {
        let (sum, other) = ("a1".repeat(64), "b2".repeat(64));
        for text in [
            String::new(),
            "<html>not found</html>".to_owned(),
            format!("{}  disk.qcow2", "a1".repeat(20)),
            format!("{sum}  other.qcow2"),
            format!("{sum}  not-disk.qcow2"),
            format!("{sum}\n{other}\n"),
            format!("{sum}  disk.qcow2\n{other}  disk.qcow2\n"),
        ] {
            assert!(find(&text, "disk.qcow2").is_err(), "{text}");
        }
    }
}
