//! When what happened in a run: the list, the trace and the picture.

use std::fs;

use serde_json::Value;
use vmm_tests::TestHome;

#[test]
fn a_run_tells_when_each_of_its_steps_was_done() {
    let home = TestHome::new();
    let (trace, plot) = (home.path().join("trace.json"), home.path().join("plot.svg"));
    let files = [trace.to_str().unwrap(), plot.to_str().unwrap()];
    let ran = home
        .vmm([
            "run",
            "--timings",
            "--trace",
            files[0],
            "--plot",
            files[1],
            "alpine",
            "--",
            "sh",
            "-c",
            "exit 3",
        ])
        .run()
        .ended_with(3);
    assert_eq!(ran.stdout(), "");

    // Each step is there, in the order of its place.
    let told = ran.stderr();
    let order = |steps: &[&str]| {
        let lines: Vec<&str> = told.lines().collect();
        let at = steps.iter().map(|step| lines.iter().position(|line| line.ends_with(&format!("  {step}"))));
        let at: Vec<usize> = at.map(|at| at.unwrap_or_else(|| panic!("{steps:?}\n{told}"))).collect();
        assert!(at.is_sorted(), "{steps:?}\n{told}");
    };
    order(&["begun", "VM asked for", "image ready, disk made", "monitor started", "machine built"]);
    order(&["machine built", "engine runs the guest", "heard that it is ready", "VM ready"]);
    order(&["VM ready", "first answer, command started", "command done", "guest stopped"]);
    order(&["guest stopped", "all cleaned up"]);
    order(&["kernel's clock begins", "agent's first instruction", "agent connected", "modules loaded"]);
    order(&["modules loaded", "root mounted", "agent ready", "command done"]);

    // The kernel's own steps stand within the boot.
    let read: Value = serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap();
    let events = read["traceEvents"].as_array().unwrap();
    let span = |name: &str| {
        let event = events.iter().find(|event| event["ph"] == "X" && event["name"] == name);
        let event = event.unwrap_or_else(|| panic!("no {name} in the trace"));
        let begin = event["ts"].as_i64().unwrap();
        (begin, begin + event["dur"].as_i64().unwrap())
    };
    let (kernel, boot) = (span("virtio_init"), span("agent's first instruction"));
    assert!(boot.0 <= kernel.0 && kernel.1 <= boot.1, "{kernel:?} in {boot:?}");
    assert!(
        events
            .iter()
            .any(|event| event["name"].as_str().is_some_and(|name| name.starts_with("Linux version")))
    );
    assert!(fs::read_to_string(&plot).unwrap().contains("root mounted"));

    home.wait_until_quiet();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_trace_that_cannot_be_written_is_told_before_anything_is_started() {
    let home = TestHome::new();
    let refused =
        home.vmm(["run", "--trace", "/nowhere/trace.json", "alpine", "--", "true"]).run().ended_with(125);
    assert!(refused.stderr().contains("/nowhere/trace.json"), "{}", refused.stderr());
    // One that was to be written beside it goes, too.
    let plot = home.path().join("plot.svg");
    home.vmm(["run", "--plot", plot.to_str().unwrap(), "no-such-image"]).run().ended_with(125);
    assert!(!plot.with_extension("svg.partial").exists() && !plot.exists());
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
