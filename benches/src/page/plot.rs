//! The plot of a metric: for each subject a strip with every measurement as a dot, the middle half as a box, the median
//! as a bar.

use std::fmt::Write;

use super::escape;
use crate::benchmark::Better;
use crate::comparison::is_known;
use crate::report::{Metric, Report};
use crate::statistics::Sample;
use crate::words;

/// How wide a plot is, in its own units.
pub(super) const WIDTH: f64 = 440.0;

/// A subject's name and figures, and below its strip.
const LABEL: f64 = 18.0;
const STRIP: f64 = 30.0;
const GAP: f64 = 10.0;

/// The axis below all of them.
const AXIS: f64 = 24.0;

/// What is left free at the sides, for dots and figures that lie at the ends.
const MARGIN: f64 = 8.0;

/// From so many times as much on, a scale of logarithms shows both ends.
const WIDE: f64 = 40.0;

/// So many dots hide each other: they are drawn smaller.
const MANY: usize = 200;

/// The elements of a plot, and how high it is.
pub(super) fn draw(report: &Report, metric: &Metric) -> (String, f64) {
    let measured: Vec<_> = report.measured(metric).collect();
    let samples: Vec<&Sample> = measured.iter().map(|(_, sample)| sample).collect();
    let Some(scale) = Scale::of(&samples) else { return (String::new(), 0.0) };
    let mut text = String::new();
    let mut y = 0.0;
    let bottom = measured.len() as f64 * (LABEL + STRIP + GAP) - GAP + 4.0;
    for tick in scale.ticks() {
        let x = scale.place(tick);
        let anchor = if x < 14.0 {
            "start"
        } else if x > WIDTH - 14.0 {
            "end"
        } else {
            "middle"
        };
        let _never_fails = write!(
            text,
            "<path class=\"grid\" d=\"M{x:.1} {:.1}V{bottom:.1}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" \
             text-anchor=\"{anchor}\">{}</text>",
            LABEL,
            bottom + 14.0,
            tick_label(tick)
        );
    }
    for (subject, sample) in &measured {
        let at = report.subjects.iter().position(|other| other.name == subject.name).unwrap_or(0);
        text += &strip(&scale, subject.title.as_str(), sample, metric, at, y);
        y += LABEL + STRIP + GAP;
    }
    let direction = match metric.measure.better {
        Better::Lower => "less is better",
        Better::Higher => "more is better",
    };
    let logarithms = if scale.logarithmic { ", logarithmic" } else { "" };
    let _never_fails = write!(
        text,
        "<text class=\"tick\" x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{}{logarithms}; {direction}</text>",
        bottom + 29.0,
        escape(&metric.measure.unit)
    );
    (text, bottom + AXIS + 10.0)
}

fn strip(scale: &Scale, title: &str, sample: &Sample, metric: &Metric, colour: usize, y: f64) -> String {
    let mut figures: Vec<String> = Vec::new();
    let known = |part: &f64| is_known(sample, *part);
    for part in metric.measure.quantiles.iter().copied().filter(known) {
        let figure = words::spread(sample, part);
        match part {
            0.5 => figures.push(format!("{figure} {}", metric.measure.unit)),
            part => figures.push(format!("{} {figure}", words::quantile(part))),
        }
    }
    let mut text = format!(
        "<text class=\"name\" x=\"0\" y=\"{:.1}\">{}</text><text class=\"figure\" x=\"{WIDTH}\" y=\"{:.1}\" \
         text-anchor=\"end\">{}</text>",
        y + 12.0,
        escape(title),
        y + 12.0,
        escape(&figures.join(", "))
    );
    let (top, middle) = (y + LABEL, y + LABEL + STRIP / 2.0);
    let [left, right, median] = [0.25, 0.75, 0.5].map(|part| scale.place(sample.quantile(part)));
    let _never_fails = write!(
        text,
        "<g class=\"s{colour}\"><rect class=\"lane\" x=\"0\" y=\"{top:.1}\" width=\"{WIDTH}\" height=\"{STRIP}\" rx=\"4\"/>\
         <rect class=\"box\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"/>",
        top + 4.0,
        (right - left).max(1.0),
        STRIP - 8.0
    );
    let class = if sample.count() > MANY { "dots many" } else { "dots" };
    let _never_fails = write!(text, "<path class=\"{class}\" d=\"");
    for (number, &value) in sample.values().iter().enumerate() {
        // Neighbours lie apart, and the same report gives the same picture.
        let jitter = if sample.count() < 3 { 0.0 } else { ((number * 7) % 13) as f64 / 12.0 - 0.5 };
        let _never_fails =
            write!(text, "M{:.1} {:.1}h0", scale.place(value), middle + jitter * (STRIP - 12.0));
    }
    let _never_fails = write!(
        text,
        "\"/><path class=\"median\" d=\"M{median:.1} {:.1}v{:.1}\"/></g>",
        top + 1.0,
        STRIP - 2.0
    );
    text
}

/// Where values lie.
struct Scale {
    logarithmic: bool,
    low: f64,
    high: f64,
}

impl Scale {
    /// A scale for all of them: from nothing, so that lengths can be compared, unless that would crowd the small ones.
    fn of(samples: &[&Sample]) -> Option<Self> {
        let least = samples.iter().map(|sample| sample.quantile(0.0)).reduce(f64::min)?;
        let most = samples.iter().map(|sample| sample.quantile(1.0)).reduce(f64::max)?;
        if least > 0.0 && most / least > WIDE {
            return Some(Self { logarithmic: true, low: least * 0.9, high: most * 1.1 });
        }
        Some(Self { logarithmic: false, low: 0.0, high: if most > 0.0 { most * 1.04 } else { 1.0 } })
    }

    fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        MARGIN + part.clamp(0.0, 1.0) * (WIDTH - 2.0 * MARGIN)
    }

    /// Round numbers along it.
    fn ticks(&self) -> Vec<f64> {
        const ROUND: [f64; 3] = [1.0, 2.0, 5.0];
        let inside = |tick: &f64| *tick >= self.low && *tick <= self.high;
        let tens = |power: i32| 10.0_f64.powi(power);
        if self.logarithmic {
            let all = |steps: &[f64]| -> Vec<f64> {
                let powers = (-6..12).flat_map(|power| steps.iter().map(move |step| step * tens(power)));
                powers.filter(inside).collect()
            };
            let fine = all(&ROUND);
            return if fine.len() <= 8 { fine } else { all(&ROUND[..1]) };
        }
        let steps = (-6..12).flat_map(|power| ROUND.map(|step| step * tens(power)));
        let step = steps.into_iter().find(|step| self.high / step <= 6.0).unwrap_or(self.high);
        (0..=6).map(|number| f64::from(number) * step).filter(inside).collect()
    }
}

fn tick_label(value: f64) -> String {
    if value >= 1.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(values: &[f64]) -> Scale {
        Scale::of(&[&Sample::new(values.to_vec())]).unwrap()
    }

    #[test]
    fn a_scale_begins_with_nothing_and_has_round_numbers() {
        let scale = scale(&[900.0, 5000.0]);
        assert!(!scale.logarithmic);
        assert_eq!(scale.ticks(), [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]);
        assert_eq!(scale.place(0.0), MARGIN);
    }

    #[test]
    fn what_is_far_apart_has_a_scale_of_logarithms() {
        let scale = scale(&[4.0, 900.0]);
        assert!(scale.logarithmic);
        assert!(scale.place(4.0) < scale.place(40.0) && scale.place(900.0) <= WIDTH);
        assert!(scale.ticks().contains(&100.0));
    }

    #[test]
    fn nothing_measured_has_no_scale() {
        assert!(Scale::of(&[]).is_none());
        assert_eq!(scale(&[0.0]).place(0.0), MARGIN);
    }
}
