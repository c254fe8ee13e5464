//! Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

/// What the answer's Content-Type says.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Builds an answer to `/metrics`, one metric after the other.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// The samples of one metric.
#[derive(Debug)]
pub struct Samples<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// A metric that only grows; its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Samples<'_> {
        self.metric(name, "counter", help)
    }

    /// A metric that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Samples<'_> {
        self.metric(name, "gauge", help)
    }

    /// The whole answer.
    pub fn finish(self) -> String {
        self.text
    }

    fn metric(&mut self, name: &'static str, kind: &str, help: &str) -> Samples<'_> {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Samples {
            text: &mut self.text,
            name,
        }
    }
}

impl Samples<'_> {
    /// The one sample of a metric without labels.
    pub fn value(&mut self, value: f64) {
        self.sample(&[], value);
    }

    /// A sample with these labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escape(value));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_help_type_and_samples() {
        let mut metrics = Exposition::default();
        metrics.gauge("up_seconds", "Since the start.").value(1.5);
        let mut counter = metrics.counter("sent_bytes_total", "Bytes sent.");
        counter.sample(
            &[("peer", "db"), ("path", "a\"b\\c\nd")],
            9_007_199_254_740_993.0,
        );
        counter.sample(&[("peer", "web")], 0.0);
        let text = metrics.finish();
        assert_eq!(
            text,
            "# HELP up_seconds Since the start.\n\
             # TYPE up_seconds gauge\n\
             up_seconds 1.5\n\
             # HELP sent_bytes_total Bytes sent.\n\
             # TYPE sent_bytes_total counter\n\
             sent_bytes_total{peer=\"db\",path=\"a\\\"b\\\\c\\nd\"} 9007199254740992\n\
             sent_bytes_total{peer=\"web\"} 0\n"
        );
    }
}
