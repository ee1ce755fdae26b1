//! The ruler with a guest: `fio` in it.

use std::error::Error;
use std::time::Duration;

use serde_json::Value;

use super::guest::Guest;
use super::round::{Done, Load};
use super::workload::Workload;

impl Load for Guest {
    fn run(&mut self, disk: usize, workload: &Workload) -> Result<Done, Box<dyn Error>> {
        read(&self.run_fio(disk, &arguments(workload))?, workload)
    }
}

/// The same requests at the same places for both disks: `fio` seeds its random numbers always alike. Its buffers are in
/// huge pages, so that a large request is one, of one piece of memory: otherwise it is luck into how many the guest cuts it.
fn arguments(workload: &Workload) -> String {
    let &Workload { write, random, block, depth, offset, span, requests, .. } = workload;
    let kind = match (write, random) {
        (false, false) => "read",
        (false, true) => "randread",
        (true, false) => "write",
        (true, true) => "randwrite",
    };
    let amount = requests * block;
    format!(
        "--eta=never --ioengine=libaio --direct=1 --thread --iomem=shmhuge --hugepage-size=2m --rw={kind} --bs={block} \
         --iodepth={depth} --offset={offset} --size={span} --io_size={amount}"
    )
}

/// What `fio` says that it did.
fn read(report: &str, workload: &Workload) -> Result<Done, Box<dyn Error>> {
    // It may warn before it reports.
    let start = report.find('{').ok_or_else(|| format!("fio reports nothing: {report}"))?;
    let report: Value = serde_json::from_str(&report[start..])?;
    let side = &report["jobs"][0][if workload.write { "write" } else { "read" }];
    let field = |name: &str| side[name].as_u64().ok_or_else(|| format!("fio does not report {name}: {side}"));
    let (requests, bytes) = (field("total_ios")?, field("io_bytes")?);
    if requests != workload.requests || bytes != requests * workload.block {
        return Err(format!("fio made {requests} requests for {bytes} bytes in \"{}\"", workload.name).into());
    }
    // `runtime` is in milliseconds; the rate is computed from a finer clock.
    let rate = side["iops"].as_f64().filter(|&rate| rate > 0.0).ok_or("fio does not report iops")?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands of requests")]
    let time = Duration::from_secs_f64(requests as f64 / rate);
    Ok(Done { requests, time })
}

#[cfg(test)]
mod tests {
    use super::super::workload::WORKLOADS;
    use super::*;

    #[test]
    fn a_report_is_read_and_one_of_other_work_is_refused() {
        let workload = WORKLOADS.iter().find(|workload| workload.random && !workload.write).unwrap();
        let report = |requests: u64| {
            format!(
                "a warning\n{{\"jobs\": [{{\"read\": {{\"total_ios\": {requests}, \"io_bytes\": {}, \"iops\": {}.0}}}}]}}",
                requests * workload.block,
                requests / 2
            )
        };
        let done = read(&report(workload.requests), workload).unwrap();
        assert_eq!(done, Done { requests: workload.requests, time: Duration::from_secs(2) });
        assert!(read(&report(workload.requests - 1), workload).is_err());
        assert!(read("no report", workload).is_err());
    }
}
