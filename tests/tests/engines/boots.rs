//! Machines one after the other and at once. `cargo verify --soak boots` makes many rounds of both.

use vmm_tests::{TestHome, rounds};

#[test]
fn machines_in_a_row_all_succeed_and_leave_nothing() {
    let home = TestHome::new();
    for round in 0..rounds(2) {
        home.run(&[], &["true"]).run().succeeded();
        assert_eq!(home.leftovers(), Vec::<String>::new(), "after round {round}");
    }
}

#[test]
fn alone_machines_at_once_all_succeed_and_leave_nothing() {
    let home = TestHome::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..rounds(4))
            .map(|_| scope.spawn(|| home.run(&["--memory", "128M"], &["true"]).run()))
            .collect();
        for run in runs {
            run.join().unwrap().succeeded();
        }
    });
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
