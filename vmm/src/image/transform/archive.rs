//! Archives, tar and zip: what is in them, and one file out of them. Names in archives are only compared: no file gets
//! its place from one.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use snafu::{OptionExt, ResultExt, ensure};
use zip::ZipArchive;

use super::super::error::{ArchiveSnafu, NoMemberSnafu, Result, StorageSnafu, TarSnafu, TooLargeSnafu};
use super::super::files;
use super::tar::{self, ReadAt, TarMember};
use super::{Job, sparse::SparseWriter};

/// A kind of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    Tar,
    Zip,
}

impl Archive {
    /// What a file is that begins with these 512 bytes, or all that it has.
    pub(crate) fn of(first: &[u8]) -> Option<Self> {
        if tar::is_tar(first) {
            return Some(Self::Tar);
        }
        first.starts_with(b"PK\x03\x04").then_some(Self::Zip)
    }

    fn of_file(path: &Path) -> Result<(File, Option<Self>)> {
        let storage = StorageSnafu { action: "read", path };
        let file = File::open(path).context(storage)?;
        let mut first = Vec::new();
        ReadAt { file: &file, at: 0 }.take(512).read_to_end(&mut first).context(storage)?;
        Ok((file, Self::of(&first)))
    }
}

/// The names of the files in an archive.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    match Archive::of_file(path)? {
        (file, Some(Archive::Zip)) => {
            let zip = ZipArchive::new(file).context(ArchiveSnafu { member: "the list", archive: path })?;
            // A name that cannot be read is none that is looked for.
            let names = zip.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
            Ok(names.filter(|name| !name.ends_with('/')).collect())
        }
        (file, _) => {
            let members = tar::members(&file).context(TarSnafu { path })?;
            Ok(members.into_iter().map(|member| member.name).collect())
        }
    }
}

/// Takes the file of this name out of an archive.
pub(crate) fn extract(from: &Path, name: &str, to: &Path, job: Job<'_>) -> Result<()> {
    match Archive::of_file(from)? {
        (file, Some(Archive::Zip)) => {
            let archive = ArchiveSnafu { member: name, archive: from };
            let mut zip = ZipArchive::new(file).context(archive)?;
            let member = zip.by_name(name).context(archive)?;
            let total = Some(member.size());
            job.write(member, to, name, total)?.map_err(zip::result::ZipError::Io).context(archive)
        }
        (file, _) => {
            let members = tar::members(&file).context(TarSnafu { path: from })?;
            let member = members.into_iter().find(|member| member.name == name);
            let member = member.context(NoMemberSnafu { name, path: from })?;
            extract_tar(&file, from, &member, to, job)
        }
    }
}

fn extract_tar(archive: &File, from: &Path, member: &TarMember, to: &Path, job: Job<'_>) -> Result<()> {
    let limit = job.bounds.length;
    ensure!(member.length <= limit, TooLargeSnafu { what: &member.name, limit });
    let mut writer = SparseWriter::create(to)?;
    let copy = |writer: &mut SparseWriter| -> Result<io::Result<()>> {
        for piece in &member.pieces {
            writer.skip_to(piece.at);
            let mut reader = ReadAt { file: archive, at: piece.in_archive }.take(piece.length);
            if let Err(error) = job.fill(&mut reader, writer, &member.name, Some(member.length))? {
                return Ok(Err(error));
            }
        }
        writer.skip_to(member.length);
        Ok(Ok(()))
    };
    match copy(&mut writer).and_then(|read| read.context(TarSnafu { path: from })) {
        Ok(()) => writer.finish(),
        Err(error) => {
            // The first error is the one to tell.
            let _ = files::remove_file(to);
            Err(error)
        }
    }
}
