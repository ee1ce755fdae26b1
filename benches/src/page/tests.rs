//! Pages are whole, need nothing else, and show what was measured.

use super::*;
use crate::report::tests::example;
use crate::report::{Incident, Report};

fn reported() -> Report {
    let mut report =
        example(&[1000.0, 1010.0, 1020.0, 990.0, 980.0], &[4000.0, 4010.0, 4020.0, 3990.0, 3980.0]);
    let what = "it said <script>alert(1)</script> \u{1b}[2J & \"more\"".to_owned();
    report.incidents.push(Incident {
        subject: "quicksand".to_owned(),
        benchmark: Benchmark::Start,
        kind: IncidentKind::Failed,
        what,
    });
    report
}

/// Every element that is opened is closed, in order; those that are never closed are known.
fn check_markup(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text.strip_prefix("<!DOCTYPE html>").unwrap_or(text);
    while let Some((before, after)) = rest.split_once('<') {
        assert!(!before.contains('>') || open.last() == Some(&"style"), "a loose bracket in {before:?}");
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && !tag.starts_with("meta ") {
            open.push(tag.split_whitespace().next().expect("a name"));
        }
    }
    assert!(open.is_empty(), "{open:?} is not closed");
}

#[test]
fn a_page_is_well_formed_and_needs_nothing_else() {
    let page = of(&reported());
    check_markup(&page);
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
}

#[test]
fn words_of_others_are_no_markup() {
    let page = of(&reported());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    assert!(page.contains("&lt;Fast &amp; &quot;Slow&quot;&gt;") && !page.contains('\u{1b}'));
}

#[test]
fn every_measurement_is_a_dot() {
    let report = reported();
    let page = of(&report);
    // Two strips of five.
    assert_eq!(page.matches("h0").count(), 10);
    assert!(page.contains("vmm 4.00 times sooner than quicksand"), "{page}");
    assert!(page.contains("Absent: it is not here"), "{page}");
}

#[test]
fn a_noisy_machine_is_told_before_all_else() {
    let mut report = reported();
    let mut noise = report.noise.clone();
    noise.load_before = Some(3.0);
    report.conclude(noise);
    let page = of(&report);
    let [warning, first] = ["too noisy to conclude", "<section>"].map(|text| page.find(text).unwrap());
    assert!(warning < first);
    check_markup(&page);
}

#[test]
fn a_chart_stands_alone() {
    let chart = chart(&reported());
    check_markup(&chart);
    assert!(chart.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && chart.contains("2026-11-22"));
    assert_eq!(chart.matches("http").count(), 1);
}
