//! Reports as a page of HTML that needs nothing else, and as a chart for a README.

mod plot;

use std::fmt::Write;

use crate::benchmark::Benchmark;
use crate::report::{IncidentKind, Metric, Report};
use crate::words;

const STYLE: &str = include_str!("style.css");

/// Colours of subjects, for the page and for a chart that stands alone.
const COLOURS: &str = include_str!("colours.css");

/// What a chart for a README shows, as far as it was measured.
const CHARTED: [&str; 3] = ["start.answer", "exec.true", "memory.1.pss"];

/// The whole page.
pub fn of(report: &Report) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>vmm bench, {}</title>\n<style>\n{COLOURS}{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&day(report))
    );
    page += &heading(report);
    for benchmark in &report.settings.benchmarks {
        page += &section(report, *benchmark);
    }
    page += &subjects(report);
    page += &method(report);
    page += "</main>\n</body>\n</html>\n";
    page
}

/// A chart of what is asked first, with its machine and its date, as an SVG that stands alone.
pub fn chart(report: &Report) -> String {
    let mut body = String::new();
    let mut height = 12.0;
    let charted =
        CHARTED.iter().filter_map(|id| report.metrics.iter().find(|metric| metric.measure.id == *id));
    for metric in charted {
        let _never_fails = write!(
            body,
            "<text class=\"title\" x=\"16\" y=\"{:.0}\">{}</text>",
            height + 16.0,
            escape(&titled(metric))
        );
        let (plot, taken) = plot::draw(report, metric);
        let _never_fails = write!(body, "<g transform=\"translate(16 {:.0})\">{plot}</g>", height + 26.0);
        height += taken + 44.0;
    }
    let [kernel, date] = [report.host.kernel.clone(), Some(day(report))].map(Option::unwrap_or_default);
    let lines =
        [processor(report), format!("{kernel} · {}", engine(report)), format!("{} · {date}", ours(report))];
    for line in lines {
        let _never_fails =
            write!(body, "<text class=\"small\" x=\"16\" y=\"{:.0}\">{}</text>", height + 6.0, escape(&line));
        height += 17.0;
    }
    let (width, height) = (plot::WIDTH + 32.0, height + 4.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{:.0}\" \
         height=\"{:.0}\" role=\"img\">\n<title>vmm bench, {}</title>\n<style>\n{COLOURS}</style>\n\
         <rect class=\"ground\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"10\"/>{body}</svg>\n",
        width * 1.5,
        height * 1.5,
        escape(&day(report))
    )
}

fn heading(report: &Report) -> String {
    let mut text = format!(
        "<header>\n<p class=\"kicker\">vmm bench · {}</p>\n<h1>What a virtual machine costs</h1>\n\
         <p class=\"machine\">{}</p>\n<p class=\"machine\">{}</p>\n",
        escape(&day(report)),
        escape(&machine(report)),
        escape(&how(report))
    );
    if !report.objections.is_empty() {
        text +=
            "<div class=\"warning\"><strong>This machine was too noisy to conclude anything.</strong><ul>";
        for objection in &report.objections {
            let _never_fails = write!(text, "<li>{}</li>", escape(objection));
        }
        text += "</ul></div>\n";
    }
    text += &keys(report);
    text + "</header>\n"
}

/// Our own figures that are asked first.
fn keys(report: &Report) -> String {
    const KEYS: [(&str, &str); 4] = [
        ("start.answer", "to the first answer"),
        ("exec.true", "to run a command"),
        ("memory.1.pss", "of the host’s memory"),
        ("stop.stop", "to shut down"),
    ];
    let mut text = String::new();
    for (id, what) in KEYS {
        let metric = report.metrics.iter().find(|metric| metric.measure.id == id);
        let sample = metric.and_then(|metric| Some((metric, metric.sample(crate::OURSELVES)?)));
        if let Some((metric, sample)) = sample {
            let (value, unit) = match (metric.measure.unit.as_str(), sample.median()) {
                ("ms", median) if median >= 1000.0 => (format!("{:.2}", median / 1000.0), "s"),
                (unit, median) => (words::figure(median), unit),
            };
            let _never_fails = write!(
                text,
                "<div class=\"key\"><b>{value}<small> {}</small></b><span>{what}</span></div>",
                escape(unit)
            );
        }
    }
    if text.is_empty() { text } else { format!("<div class=\"keys\">{text}</div>\n") }
}

fn section(report: &Report, benchmark: Benchmark) -> String {
    let metrics: Vec<&Metric> =
        report.metrics.iter().filter(|metric| metric.measure.benchmark == benchmark).collect();
    let incidents: Vec<_> =
        report.incidents.iter().filter(|incident| incident.benchmark == benchmark).collect();
    if metrics.is_empty() && incidents.is_empty() {
        return String::new();
    }
    let mut text = format!("<section>\n<h2>{}</h2>\n<div class=\"cards\">\n", benchmark.title());
    for metric in metrics {
        text += &card(report, metric);
    }
    text += "</div>\n";
    if !incidents.is_empty() {
        text += "<ul class=\"incidents\">";
        for incident in incidents {
            let kind = match incident.kind {
                IncidentKind::Failed => "failed",
                IncidentKind::Unsupported => "not measured",
                IncidentKind::CutShort => "cut short",
            };
            let _never_fails = write!(
                text,
                "<li><b>{}</b> {kind}: {}</li>",
                escape(title(report, &incident.subject)),
                escape(&incident.what)
            );
        }
        text += "</ul>\n";
    }
    text + "</section>\n"
}

/// A metric: every measurement, what can be concluded, and the figures as a table.
fn card(report: &Report, metric: &Metric) -> String {
    let (plot, height) = plot::draw(report, metric);
    let mut text = format!(
        "<article>\n<h3>{}</h3>\n<svg viewBox=\"0 0 {:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">{plot}</svg>\n",
        escape(&titled(metric)),
        plot::WIDTH,
        escape(&metric.measure.title)
    );
    for comparison in report.comparisons.iter().filter(|comparison| comparison.metric == metric.measure.id) {
        let class = if comparison.verdict.why_none().is_some() { "none" } else { "verdict" };
        let sentence = words::sentence(report, &metric.measure, comparison);
        let _never_fails = write!(text, "<p class=\"{class}\">{}</p>", escape(&sentence));
    }
    text += "<details><summary>Figures</summary><div class=\"scroll\"><table><tr><th></th>";
    let parts: Vec<f64> = if metric.measure.quantiles.len() > 1 {
        [vec![0.0, 0.25], metric.measure.quantiles.clone(), vec![1.0]].concat()
    } else {
        vec![0.0, 0.25, 0.5, 0.75, 1.0]
    };
    for &part in &parts {
        let _never_fails = write!(text, "<th>{}</th>", column(part));
    }
    text += "<th>count</th></tr>";
    for (subject, sample) in report.measured(metric) {
        let _never_fails = write!(text, "<tr><th>{}</th>", escape(&subject.title));
        for &part in &parts {
            let known = part == 0.0 || part == 1.0 || crate::comparison::is_known(&sample, part);
            let value = if known { words::figure(sample.quantile(part)) } else { "–".to_owned() };
            let _never_fails = write!(text, "<td>{value}</td>");
        }
        let _never_fails = write!(text, "<td>{}</td></tr>", sample.count());
    }
    text + "</table></div></details>\n</article>\n"
}

fn column(part: f64) -> String {
    match part {
        0.0 => "least".to_owned(),
        0.25 => "¼".to_owned(),
        0.75 => "¾".to_owned(),
        1.0 => "most".to_owned(),
        part => words::quantile(part),
    }
}

fn subjects(report: &Report) -> String {
    let mut text = "<section>\n<h2>Who was measured</h2>\n<dl>\n".to_owned();
    for subject in &report.subjects {
        let _never_fails = write!(text, "<dt>{}</dt>", escape(&subject.title));
        let about = match (&subject.version, &subject.absent) {
            (_, Some(absent)) => format!("Absent: {}. To have it: {}", absent.why, absent.get),
            (version, None) => format!("{}. {}", version.as_deref().unwrap_or("?"), subject.note),
        };
        let _never_fails = writeln!(text, "<dd>{}</dd>", escape(&about));
    }
    text + "</dl>\n</section>\n"
}

fn method(report: &Report) -> String {
    let settings = &report.settings;
    let calibration = crate::statistics::Sample::new(report.noise.calibration_ms.clone());
    let steal = report.noise.steal.map_or_else(String::new, |steal| {
        format!(" The hypervisor below took {:.1} % of the processors’ time.", steal * 100.0)
    });
    format!(
        "<section>\n<h2>How</h2>\n<p>{} {} of all in turn, another first in each, after a round that does not count. \
         Each dot is a measurement; the box is the middle half of them, the bar their median. Machines have {} processor \
         and {} MiB; where there are many, {} MiB. The intervals of ratios hold 95 of 100 resamplings of the rounds and of \
         what is in them. A winner is named where the interval leaves out 1, five rounds or more were run, and the machine \
         was quiet: the same work, timed between the measurements, took {} to {} ms in its middle half.{}</p>\n</section>\n",
        settings.rounds,
        crate::host::plural(settings.rounds, "round"),
        settings.cpus,
        settings.memory_mib,
        settings.many_memory_mib,
        words::figure(calibration.quantile(0.25)),
        words::figure(calibration.quantile(0.75)),
        steal
    )
}

fn processor(report: &Report) -> String {
    let host = &report.host;
    let mut parts = vec![
        host.processor.clone().unwrap_or_else(|| host.arch.clone()),
        format!("{} {}", host.cores, crate::host::plural(host.cores, "core")),
    ];
    parts.extend(host.memory_mib.map(|memory| format!("{:.0} GiB", memory as f64 / 1024.0)));
    parts.join(" · ")
}

fn machine(report: &Report) -> String {
    [Some(processor(report)), report.host.kernel.clone()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" · ")
}

fn engine(report: &Report) -> String {
    match report.engine.as_deref() {
        Some("software") => "no hardware virtualization: QEMU emulates the processor".to_owned(),
        Some(engine) => format!("engine {engine}"),
        None => "engine unknown".to_owned(),
    }
}

/// Our version, and how often it was measured.
fn ours(report: &Report) -> String {
    let version = report.subjects.first().and_then(|subject| subject.version.clone()).unwrap_or_default();
    let rounds = report.settings.rounds;
    format!("{version} · {rounds} {}", crate::host::plural(rounds, "round"))
}

fn how(report: &Report) -> String {
    format!("{} · {}", ours(report), engine(report))
}

fn day(report: &Report) -> String {
    report.date.split('T').next().unwrap_or_default().to_owned()
}

fn title<'a>(report: &'a Report, name: &'a str) -> &'a str {
    report.subjects.iter().find(|subject| subject.name == name).map_or(name, |subject| &subject.title)
}

fn titled(metric: &Metric) -> String {
    metric.measure.title.replacen('`', "“", 1).replacen('`', "”", 1)
}

/// Text that is no markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no other control characters, and no terminal's either.
            c if c.is_control() && c != '\n' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
