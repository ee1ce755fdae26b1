//! How a queue's thread carries requests out.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snafu::{ResultExt, Snafu};
use vmm_disk::DiskImage;

use super::request::{Operation, Refusal, Request, Status};
use super::state::{BlockState, ID_LENGTH, MAXIMUM_DATA};
use crate::memory::{ReadVectors, Regions, WriteVectors};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Chain, ChainReader, ChainWriter, QueueError, QueueHandler, Served};

static REFUSED: LogLimit = LogLimit::new();
static FAILED: LogLimit = LogLimit::new();

/// After so many requests in a row that nobody waited for, the host has what is wanted in its page cache.
const MANY_QUICK: u32 = 64;

/// What a request takes at most that does not wait for the host's disk: in all, and for each KiB.
const QUICK: Duration = Duration::from_micros(50);
const QUICK_KIB: Duration = Duration::from_nanos(500);

/// Serves one queue of a disk.
pub(super) struct BlockQueue {
    disk: Arc<BlockState>,
    features: u64,
    targets: ReadVectors,
    sources: WriteVectors,
    /// How many requests in a row did not wait for the host's disk.
    quick: u32,
}

/// Why a request that was accepted failed.
#[derive(Debug, Snafu)]
enum Failure {
    #[snafu(display("cannot read {length} bytes at {offset:#x} of the disk"))]
    Read { offset: u64, length: u32, source: io::Error },
    #[snafu(display("cannot write {length} bytes at {offset:#x} of the disk"))]
    Write { offset: u64, length: u32, source: io::Error },
    #[snafu(display("cannot flush the disk"))]
    Flush { source: io::Error },
    #[snafu(display("cannot discard {length} bytes at {offset:#x} of the disk"))]
    Discard { offset: u64, length: u64, source: io::Error },
    #[snafu(display("cannot write zeroes to {length} bytes at {offset:#x} of the disk"))]
    WriteZeroes { offset: u64, length: u64, source: io::Error },
    #[snafu(display("cannot answer the request"))]
    Answer { source: QueueError },
}

impl BlockQueue {
    pub(super) fn new(disk: Arc<BlockState>, features: u64) -> Self {
        Self { disk, features, targets: ReadVectors::new(), sources: WriteVectors::new(), quick: MANY_QUICK }
    }

    /// Notes how long a request took that moved so many bytes.
    fn note_time(&mut self, length: u32, took: Duration) {
        self.quick = if took > QUICK + QUICK_KIB * (length >> 10) { 0 } else { self.quick.saturating_add(1) };
    }

    /// Carries an operation out and writes what it answers.
    fn execute(&mut self, operation: &Operation<'_>, answer: &mut ChainWriter<'_>) -> Result<(), Failure> {
        let image = self.disk.image.as_ref();
        match operation {
            Operation::Read { offset } => read(image, &mut self.targets, *offset, answer)?,
            Operation::Write { offset, data } => {
                write(image, &mut self.sources, *offset, data)?;
                self.settle()?;
            }
            Operation::Flush => image.flush().context(FlushSnafu)?,
            Operation::GetId => {
                let length = ID_LENGTH.min(answer.remaining() as usize);
                answer.write(&self.disk.id[..length]).context(AnswerSnafu)?;
            }
            Operation::Discard(ranges) => {
                for range in ranges.iter().filter(|range| range.length > 0) {
                    let (offset, length) = (range.offset, range.length);
                    image.discard(offset, length).context(DiscardSnafu { offset, length })?;
                }
                self.settle()?;
            }
            Operation::WriteZeroes(ranges) => {
                for range in ranges.iter().filter(|range| range.length > 0) {
                    let (offset, length) = (range.offset, range.length);
                    let written = image.write_zeroes(offset, length, range.unmap);
                    written.context(WriteZeroesSnafu { offset, length })?;
                }
                self.settle()?;
            }
        }
        Ok(())
    }

    /// Without a cache that the driver knows of, a write that is answered is on the disk (5.2.6.2).
    fn settle(&self) -> Result<(), Failure> {
        if self.disk.writeback(self.features) {
            return Ok(());
        }
        self.disk.image.flush().context(FlushSnafu)
    }
}

fn read(
    image: &dyn DiskImage,
    targets: &mut ReadVectors,
    offset: u64,
    answer: &mut ChainWriter<'_>,
) -> Result<(), Failure> {
    let length = answer.remaining();
    if length > 0 {
        let result = targets.with(answer.slices(), |buffers| image.read(buffers, offset));
        result.context(ReadSnafu { offset, length })?;
    }
    answer.skip(length).context(AnswerSnafu)
}

fn write(
    image: &dyn DiskImage,
    sources: &mut WriteVectors,
    offset: u64,
    data: &ChainReader<'_>,
) -> Result<(), Failure> {
    let length = data.remaining();
    if length == 0 {
        return Ok(());
    }
    let result = sources.with(data.slices(), |buffers| image.write(buffers, offset));
    result.context(WriteSnafu { offset, length })
}

impl QueueHandler for BlockQueue {
    fn serve(&mut self, chain: &Chain, memory: &Regions) -> Served {
        let began = Instant::now();
        let served = self.answer(chain, memory);
        self.note_time(chain.readable_length().max(chain.writable_length()), began.elapsed());
        served
    }

    fn is_quick(&self) -> bool {
        self.quick >= MANY_QUICK
    }

    /// One request after the other waits for the host's disk, unless that is told of all of them at once.
    fn looks_ahead(&self) -> bool {
        self.quick < MANY_QUICK
    }

    fn foresee(&mut self, chain: &Chain, memory: &Regions) {
        let Some(Request { operation: Ok(operation), answer, .. }) =
            Request::parse(chain, memory, &self.disk)
        else {
            return;
        };
        match operation {
            Operation::Read { offset } => self.disk.image.will_read(offset, answer.remaining().into()),
            Operation::Write { offset, data } => self.disk.image.will_write(offset, data.remaining().into()),
            Operation::Flush | Operation::GetId | Operation::Discard(_) | Operation::WriteZeroes(_) => {}
        }
    }
}

impl BlockQueue {
    fn answer(&mut self, chain: &Chain, memory: &Regions) -> Served {
        let disk = Arc::clone(&self.disk);
        let Some(request) = Request::parse(chain, memory, &disk) else {
            log_refusal("it has no room for a status");
            return Served::Done(0);
        };
        let Request { operation, answer, status } = request;
        // What of the answer is not written yet. After a failure that is all of it: what a read left there is not
        // to be taken for the disk's contents.
        let mut unwritten = answer;
        let result = operation.map_err(|Refusal { status, reason }| {
            log_refusal(reason);
            status
        });
        let result = result.and_then(|operation| {
            let mut answer = answer;
            self.execute(&operation, &mut answer).map_err(|failure| {
                log_failure(&failure);
                Status::IoError
            })?;
            unwritten = answer;
            Ok(())
        });
        match finish(unwritten, status, result.err().unwrap_or(Status::Ok)) {
            Ok(true) => Served::Done(chain.writable_length()),
            Ok(false) => Served::Done(0),
            Err(source) => {
                log_failure(&Failure::Answer { source });
                Served::Done(0)
            }
        }
    }
}

/// Writes the status; says whether everything in front of it is written as well. The length that we report to the
/// driver covers that (2.7.8.2), so what nobody wrote is filled with zeroes, unless it is absurdly much.
fn finish(
    mut unwritten: ChainWriter<'_>,
    mut status: ChainWriter<'_>,
    value: Status,
) -> Result<bool, QueueError> {
    let fill = unwritten.remaining() <= MAXIMUM_DATA;
    if fill {
        unwritten.fill_with_zeroes()?;
    }
    status.write(&[value as u8])?;
    Ok(fill)
}

fn log_refusal(reason: &str) {
    if let Some(left_out) = REFUSED.permit() {
        tracing::warn!(reason, left_out, "refused a request of the guest's to its disk");
    }
}

fn log_failure(failure: &Failure) {
    if let Some(left_out) = FAILED.permit() {
        let cause = std::error::Error::source(failure).map(ToString::to_string);
        tracing::error!(%failure, cause, left_out, "a request of the guest's to its disk failed");
    }
}
