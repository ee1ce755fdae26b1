//! A timeline as a picture.

use std::fmt::Write;
use std::time::Duration;

use super::{Span, Timeline, Track};

const WIDTH: f64 = 960.0;
/// Where the bars begin: names are left of it.
const LEFT: f64 = 230.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 40.0;
const ROW: f64 = 20.0;

/// Colours that are told apart on a light ground and a dark one.
fn colour(track: Track) -> &'static str {
    match track {
        Track::Program => "#4477aa",
        Track::Monitor => "#ccaa44",
        Track::Guest => "#66aa77",
    }
}

impl Timeline {
    /// It as a picture (SVG): a bar for each step, from that before it in the same place.
    pub fn plot(&self) -> String {
        let mut spans = self.spans();
        spans.sort_by_key(|span| (span.from, span.to));
        let end = spans.iter().map(|span| span.to).max().unwrap_or_default();
        let height = TOP + ROW * to_f64(spans.len()) + 30.0;
        let mut svg = String::new();
        // Writing to a text cannot fail.
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>From the wish for a VM to its end</title>\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"
        );
        let mut x = LEFT;
        for track in Track::ALL {
            let (colour, name) = (colour(track), track.name());
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"8\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"18\" fill=\"#222222\">{name}</text>",
                x + 18.0
            );
            x += 100.0;
        }
        let bottom = height - 22.0;
        let step = tick(end);
        let mut at = Duration::ZERO;
        while at <= end {
            let x = place(at, end);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" fill=\"#666666\" text-anchor=\"middle\">{} ms</text>",
                TOP - 6.0,
                bottom + 15.0,
                at.as_millis()
            );
            at += step;
        }
        for (row, span) in spans.iter().enumerate() {
            bar(&mut svg, span, TOP + ROW * to_f64(row), end);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// A span's row. Its name is ours: nothing of a guest's is in it.
fn bar(svg: &mut String, span: &Span, y: f64, end: Duration) {
    let (from, to) = (place(span.from, end), place(span.to, end));
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" fill=\"#222222\" text-anchor=\"end\">{}</text>\
         <rect x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" rx=\"2\" fill=\"{}\"/>\
         <text x=\"{:.1}\" y=\"{}\" fill=\"#666666\">{:.1} ms</text>",
        LEFT - 8.0,
        y + 13.0,
        span.name,
        y + 3.0,
        (to - from).max(1.0),
        ROW - 6.0,
        colour(span.track),
        to + 5.0,
        y + 13.0,
        (span.to - span.from).as_secs_f64() * 1000.0,
    );
}

fn place(at: Duration, end: Duration) -> f64 {
    let whole = end.as_secs_f64().max(1e-6);
    LEFT + at.as_secs_f64() / whole * (WIDTH - LEFT - RIGHT)
}

/// A round number of milliseconds that is seen twelve times at most.
fn tick(end: Duration) -> Duration {
    let rounds = (0..6).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    rounds.map(Duration::from_millis).find(|step| end <= *step * 12).unwrap_or(end)
}

fn to_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn every_step_has_its_bar() {
        let (svg, spans) = (example().plot(), example().spans());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        for span in &spans {
            assert!(svg.contains(&format!(">{}</text>", span.name)), "{}", span.name);
        }
        assert_eq!(svg.matches("rx=\"2\"").count(), spans.len());
        // 98 ms: a line at each ten.
        assert_eq!(svg.matches("<line ").count(), 10);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        assert!(Timeline::begin().plot().contains("0 ms"));
    }
}
