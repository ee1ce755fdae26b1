//! `vmm bench`: measures on this machine, keeps what it measured, and compares; whoever gives up leaves nothing.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use vmm_tests::TestHome;

#[test]
fn starts_and_commands_are_measured_kept_and_compared() {
    let home = TestHome::new();
    let [json, html, svg] = ["a.json", "a.html", "a.svg"].map(|name| home.path().join(name));
    let [json_path, html_path, svg_path] = [&json, &html, &svg].map(|path| path.to_str().unwrap());
    let quick = ["bench", "start", "exec", "--quick", "--rounds", "2", "--peers", "none"];
    let files = ["--json", json_path, "--html", html_path];
    let table = home.vmm([&quick[..], &files].concat()).run().succeeded().stdout();
    assert!(table.contains("start.answer") && table.contains("exec.true p99"), "{table}");
    assert_eq!(home.leftovers(), Vec::<String>::new());

    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((report["schema"].as_str(), report["version"].as_u64()), (Some("vmm-bench"), Some(1)));
    assert_eq!(report["engine"], vmm_tests::engine());
    assert!(report["host"]["cores"].as_u64().unwrap() >= 1, "{report}");
    let rounds = |id: &str| -> Vec<usize> {
        let metrics = report["metrics"].as_array().unwrap();
        let metric = metrics.iter().find(|metric| metric["id"] == id).unwrap_or_else(|| panic!("no {id}"));
        let rounds = metric["samples"]["vmm"].as_array().unwrap();
        assert!(
            rounds.iter().flat_map(|round| round.as_array().unwrap()).all(|ms| ms.as_f64().unwrap() > 0.0)
        );
        rounds.iter().map(|round| round.as_array().unwrap().len()).collect()
    };
    assert_eq!(rounds("start.answer"), [1, 1]);
    assert_eq!(rounds("start.ready"), [1, 1]);
    assert_eq!(rounds("exec.true"), [50, 50]);
    assert_eq!(report["subjects"].as_array().unwrap().len(), 1);
    assert!(report["incidents"].as_array().unwrap().is_empty(), "{}", report["incidents"]);

    let page = fs::read_to_string(&html).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));

    // The same run is no slower than itself; half as fast in all rounds is, where there are rounds enough.
    let (before, slower) = (home.path().join("before.json"), home.path().join("slower.json"));
    scaled(&report, &before, 1.0);
    let same = ["bench", "compare", before.to_str().unwrap(), before.to_str().unwrap(), "--fail-on-slower"];
    let same = home.vmm(same).run().succeeded().stdout();
    assert!(same.contains("start.answer median"), "{same}");
    scaled(&report, &slower, 2.0);
    let arguments =
        ["bench", "compare", before.to_str().unwrap(), slower.to_str().unwrap(), "--fail-on-slower"];
    let worse = home.vmm(arguments).run();
    assert_eq!(worse.status(), 1, "{}", worse.stdout());
    assert!(worse.stdout().contains("worse"), "{}", worse.stdout());

    home.vmm(["bench", "show", json_path, "--svg", svg_path]).run().succeeded();
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg "));
}

/// The report with five rounds like its first, so much slower, of a machine that was quiet.
fn scaled(report: &Value, to: &Path, factor: f64) {
    let mut report = report.clone();
    report["objections"] = Value::Array(Vec::new());
    for metric in report["metrics"].as_array_mut().unwrap() {
        let rounds = metric["samples"]["vmm"].as_array_mut().unwrap();
        let first: Vec<f64> =
            rounds[0].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() * factor).collect();
        *rounds = vec![serde_json::json!(first); 5];
    }
    fs::write(to, report.to_string()).unwrap();
}

#[test]
fn whoever_interrupts_a_benchmark_leaves_nothing() {
    let home = TestHome::new();
    let json = home.path().join("cut.json");
    let mut bench = home.vmm(["bench", "start", "--peers", "none", "--json", json.to_str().unwrap()]).start();
    bench.expect_error("warm-up, vmm: the first answer");
    // In the middle of the next start.
    bench.signal(Signal::INT);
    assert_eq!(bench.end().0, 130);
    home.wait_until_quiet();
    assert_eq!(home.leftovers(), Vec::<String>::new());
    assert!(!json.exists() && !json.with_file_name("cut.json.partial").exists());
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    let home = TestHome::empty();
    let refused = |arguments: &[&str], why: &str| {
        let said = home.vmm(arguments).run().ended_with(125).stderr();
        assert!(said.contains(why), "{said}");
    };
    refused(&["bench", "boot"], "there is no benchmark \"boot\"");
    refused(&["bench", "--rounds", "0"], "0");
    refused(&["bench", "--peers", "xen"], "there is no peer \"xen\"");
    refused(&["bench", "--peer", "firecracker=/nothing/there"], "there is no program /nothing/there");
    refused(&["bench", "start", "--json", "/nothing/there.json"], "cannot write /nothing/there.json");
    refused(&["bench", "compare", "/nothing/a.json", "/nothing/b.json"], "cannot read /nothing/a.json");
    let other = home.path().join("other.json");
    fs::write(&other, "{\"schema\": \"vmm-bench\", \"version\": 7}").unwrap();
    refused(&["bench", "show", other.to_str().unwrap()], "version 7 of the format");
}
