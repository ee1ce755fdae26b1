//! A project's file, as a stranger writes it: whatever it holds, it is read or refused with places that are in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::project::ProjectFile;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match ProjectFile::parse(text) {
        Ok(file) => {
            assert!(!file.machines.is_empty());
            let again = ProjectFile::parse(text).expect("what was read once is read again");
            assert_eq!(file, again);
        }
        Err(problems) => {
            assert!(!problems.is_empty() && problems.len() <= 20);
            let lines: Vec<&str> = text.split('\n').collect();
            for problem in problems {
                let line = lines.get(problem.line - 1).expect("a line of the file");
                assert!(problem.column >= 1 && problem.column <= line.chars().count() + 1);
                assert!(!problem.message.is_empty() && !problem.message.contains('\n'));
                assert!(problem.message.len() < 2000, "{} bytes", problem.message.len());
            }
        }
    }
});
