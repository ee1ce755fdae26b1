//! A file or block device of the host, locked for as long as it is open.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};

use rustix::fs::SeekFrom;
use rustix::io::{Errno, preadv, pwritev, retry_on_intr};
use vmm_sys::FileLock;
use vmm_sys::file::{fetch_ahead, punch_hole, zero_range};
use vmm_sys::scattered;

use super::Storage;
use crate::bytes::index;

/// How many buffers the system takes at once (`IOV_MAX`).
const BUFFERS_AT_ONCE: usize = 1024;

/// What is written at once where zeroes must be written out.
static ZEROES: [u8; 65536] = [0; 65536];

/// A file of the host: one writer, or any number of readers.
#[derive(Debug)]
pub struct FileStorage {
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Locked(FileLock),
    Unlocked(File),
}

impl FileStorage {
    /// Takes an open file for reading, beside other readers. `None`: a writer has it.
    pub fn shared(file: File) -> io::Result<Option<Self>> {
        Ok(FileLock::try_shared_file(file)?.map(Self::locked))
    }

    /// Takes an open file for writing, alone. `None`: somebody else has it.
    pub fn exclusive(file: File) -> io::Result<Option<Self>> {
        Ok(FileLock::try_exclusive_file(file)?.map(Self::locked))
    }

    /// Takes an open file only to look at it: it may change meanwhile.
    pub(crate) fn unlocked(file: File) -> Self {
        Self { handle: Handle::Unlocked(file) }
    }

    fn locked(lock: FileLock) -> Self {
        Self { handle: Handle::Locked(lock) }
    }

    fn file(&self) -> &File {
        match &self.handle {
            Handle::Locked(lock) => lock.file(),
            Handle::Unlocked(file) => file,
        }
    }

    fn write_out_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let now = (length - done).min(ZEROES.len() as u64);
            self.write(&[IoSlice::new(&ZEROES[..index(now)])], offset + done)?;
            done += now;
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn length(&self) -> io::Result<u64> {
        let metadata = self.file().metadata()?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        // A block device tells its length by its end only.
        Ok(rustix::fs::seek(self.file(), SeekFrom::End(0))?)
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let wanted = scattered::length_mut(buffers);
        let mut done = if buffers.len() <= BUFFERS_AT_ONCE {
            retry_on_intr(|| preadv(self.file(), buffers, offset))? as u64
        } else {
            0
        };
        while done < wanted {
            let mut rest = scattered::window_mut(buffers, done, wanted - done);
            let at_once = rest.len().min(BUFFERS_AT_ONCE);
            match retry_on_intr(|| preadv(self.file(), &mut rest[..at_once], offset + done))? {
                0 => {
                    scattered::zero(&mut rest);
                    return Ok(());
                }
                count => done += count as u64,
            }
        }
        Ok(())
    }

    fn will_read(&self, offset: u64, length: u64) {
        fetch_ahead(self.file(), offset, length);
    }

    fn data_from(&self, offset: u64) -> io::Result<u64> {
        // It moves the position of the open file, which nothing here goes by.
        match rustix::fs::seek(self.file(), SeekFrom::Data(offset)) {
            Ok(at) => Ok(at.max(offset)),
            Err(Errno::NXIO) => Ok(u64::MAX),
            // A file system that does not tell, or a block device.
            Err(_) => Ok(offset),
        }
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let wanted = scattered::length(buffers);
        let at_once = buffers.len().min(BUFFERS_AT_ONCE);
        let mut done = retry_on_intr(|| pwritev(self.file(), &buffers[..at_once], offset))? as u64;
        while done < wanted {
            let rest = scattered::window(buffers, done, wanted - done);
            let at_once = rest.len().min(BUFFERS_AT_ONCE);
            match retry_on_intr(|| pwritev(self.file(), &rest[..at_once], offset + done))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => done += count as u64,
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let tried = if unmap {
            punch_hole(self.file(), offset, length)
        } else {
            zero_range(self.file(), offset, length)
        };
        match tried {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_out_zeroes(offset, length),
            tried => tried,
        }
    }

    fn give_back(&self, offset: u64, length: u64) -> io::Result<()> {
        match punch_hole(self.file(), offset, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            tried => tried,
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file().set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        loop {
            match self.file().sync_data() {
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> FileStorage {
        FileStorage::exclusive(tempfile::tempfile().unwrap()).unwrap().unwrap()
    }

    #[test]
    fn what_lies_beyond_the_end_reads_as_zeroes() {
        let storage = storage();
        storage.write(&[IoSlice::new(b"end")], 10).unwrap();
        let (mut first, mut second) = ([9; 4], [9; 4]);
        storage.read(&mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)], 9).unwrap();
        assert_eq!((first, second), (*b"\0end", [0; 4]));
    }

    #[test]
    fn more_buffers_than_the_system_takes_are_written_and_read() {
        let storage = storage();
        let bytes: Vec<[u8; 1]> = (0..3000_u32).map(|number| [number.to_le_bytes()[0]]).collect();
        let buffers: Vec<IoSlice<'_>> = bytes.iter().map(|byte| IoSlice::new(byte)).collect();
        storage.write(&buffers, 5).unwrap();
        let mut back = vec![[0; 1]; 3000];
        let mut buffers: Vec<IoSliceMut<'_>> = back.iter_mut().map(|byte| IoSliceMut::new(byte)).collect();
        storage.read(&mut buffers, 5).unwrap();
        assert_eq!(bytes, back);
    }

    #[test]
    fn a_hole_is_skipped_to_what_comes_behind_it() {
        let storage = storage();
        storage.set_length(64 << 20).unwrap();
        storage.write(&[IoSlice::new(b"here")], 32 << 20).unwrap();
        let found = storage.data_from(0).unwrap();
        // A file system without holes tells of none.
        assert!(found <= 32 << 20, "{found}");
        assert!(storage.data_from(32 << 20).unwrap() == 32 << 20);
        assert!(storage.data_from(64 << 20).unwrap() >= 64 << 20);
    }

    #[test]
    fn zeroes_written_out_are_zeroes() {
        let storage = storage();
        storage.write(&[IoSlice::new(&[7; 200_000])], 0).unwrap();
        storage.write_out_zeroes(3, 150_000).unwrap();
        let mut back = vec![1; 200_000];
        storage.read(&mut [IoSliceMut::new(&mut back)], 0).unwrap();
        assert_eq!(back[..3], [7; 3]);
        assert!(crate::bytes::all_zero(&back[3..150_003]));
        assert!(back[150_003..].iter().all(|&byte| byte == 7));
    }
}
