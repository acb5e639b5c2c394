//! Plots as SVG: lines, dots and bands over a time axis, and bars below. Just what porin's pictures need.

use std::fmt::Write as _;

/// Pixels around the plotting area: left, top, right.
const MARGIN: (f64, f64, f64) = (56.0, 44.0, 16.0);

/// Pixels of the picture's width.
const WIDTH: f64 = 800.0;

/// Pixels of the plotting area's height.
const HEIGHT: f64 = 240.0;

/// One colour for each meaning, in every picture.
pub(crate) const RAW: &str = "#8a8f98";
pub(crate) const KEPT: &str = "#0b7a75";

/// A picture that is being drawn.
pub(crate) struct Plot {
    svg: String,
    x: (f64, f64),
    y: (f64, f64),
    bottom: f64,
}

impl Plot {
    /// Axes for these ranges, with a title and the unit of the values. `ticks`: values of x with their labels.
    pub(crate) fn new(title: &str, unit: &str, x: (f64, f64), y: (f64, f64), ticks: &[(f64, String)]) -> Self {
        let mut plot = Self { svg: String::new(), x, y, bottom: MARGIN.1 + HEIGHT };
        plot.text(MARGIN.0, 24.0, "start", 16.0, title);
        for step in 0..=4 {
            let value = y.0 + (y.1 - y.0) * f64::from(step) / 4.0;
            let (left, right, at) = (MARGIN.0, WIDTH - MARGIN.2, plot.at_y(value));
            plot.path(&format!("M{left} {at:.1}H{right}"), "stroke=\"#dfe3e8\" fill=\"none\"");
            plot.text(left - 6.0, at + 4.0, "end", 11.0, &format!("{value:.2}"));
        }
        plot.text(MARGIN.0 - 6.0, MARGIN.1 - 8.0, "end", 11.0, unit);
        for (value, label) in ticks {
            let at = plot.at_x(*value);
            let bottom = MARGIN.1 + HEIGHT;
            plot.path(&format!("M{at:.1} {bottom}v5"), "stroke=\"#8a8f98\" fill=\"none\"");
            plot.text(at, bottom + 18.0, "middle", 11.0, label);
        }
        plot.bottom += 34.0;
        plot
    }

    fn at_x(&self, value: f64) -> f64 {
        MARGIN.0 + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - MARGIN.0 - MARGIN.2)
    }

    fn at_y(&self, value: f64) -> f64 {
        MARGIN.1 + (self.y.1 - value) / (self.y.1 - self.y.0) * HEIGHT
    }

    fn path(&mut self, path: &str, style: &str) {
        let _ = writeln!(self.svg, "<path d=\"{path}\" {style}/>");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: f64, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{text}</text>"
        );
    }

    /// Points joined by straight lines.
    pub(crate) fn line(&mut self, points: &[(f64, f64)], colour: &str) {
        let path: String = points.iter().map(|(x, y)| format!("L{:.1} {:.1}", self.at_x(*x), self.at_y(*y))).collect();
        self.path(&path.replacen('L', "M", 1), &format!("stroke=\"{colour}\" stroke-width=\"1.5\" fill=\"none\""));
    }

    /// A value that holds from each point to the next, with this much room above and below it.
    pub(crate) fn steps(&mut self, points: &[(f64, f64)], end: f64, room: f64, colour: &str) {
        let ends = points.iter().skip(1).map(|(x, _)| *x).chain([end]);
        let (mut band, mut line) = (String::new(), String::new());
        for ((x, y), next) in points.iter().zip(ends) {
            let (left, right, height) = (self.at_x(*x), self.at_x(next), self.at_y(y - room) - self.at_y(y + room));
            let _ = write!(band, "M{left:.1} {:.1}H{right:.1}v{height:.1}H{left:.1}z", self.at_y(y + room));
            let _ =
                write!(line, "{}{left:.1} {:.1}H{right:.1}", if line.is_empty() { 'M' } else { 'L' }, self.at_y(*y));
        }
        self.path(&band, &format!("fill=\"{colour}\" opacity=\"0.15\""));
        self.path(&line, &format!("stroke=\"{colour}\" stroke-width=\"1\" fill=\"none\""));
    }

    /// A dot at each point.
    pub(crate) fn dots(&mut self, points: &[(f64, f64)], colour: &str) {
        let dot = |(x, y): &(f64, f64)| {
            format!("M{:.1} {:.1}m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0", self.at_x(*x), self.at_y(*y))
        };
        let path: String = points.iter().map(dot).collect();
        self.path(&path, &format!("fill=\"{colour}\""));
    }

    /// Colours with their meanings, in a row below the plot.
    pub(crate) fn legend(&mut self, entries: &[(&str, &str)]) {
        let mut x = MARGIN.0;
        for (colour, meaning) in entries {
            let y = self.bottom + 8.0;
            self.path(&format!("M{x} {}h18", y - 4.0), &format!("stroke=\"{colour}\" stroke-width=\"4\""));
            self.text(x + 24.0, y, "start", 12.0, meaning);
            // Helvetica's mean width at this size.
            #[allow(clippy::cast_precision_loss)]
            let width = meaning.chars().count() as f64 * 6.2;
            x += width + 56.0;
        }
        self.bottom += 30.0;
    }

    /// Horizontal bars on one scale: label, amount, what is written behind it.
    pub(crate) fn bars(&mut self, bars: &[(&str, f64, String)], colour: &str) {
        const LABELS: f64 = 250.0;
        const NUMBERS: f64 = 190.0;
        let most = bars.iter().map(|(_, amount, _)| *amount).fold(f64::MIN_POSITIVE, f64::max);
        for (label, amount, number) in bars {
            let (left, width) = (MARGIN.0 + LABELS, (WIDTH - MARGIN.0 - LABELS - NUMBERS) * amount / most);
            let y = self.bottom;
            self.text(left - 8.0, y + 13.0, "end", 12.0, label);
            self.path(&format!("M{left} {y}h{width:.1}v18h-{width:.1}z"), &format!("fill=\"{colour}\""));
            self.text(left + width + 8.0, y + 13.0, "start", 12.0, number);
            self.bottom += 24.0;
        }
    }

    /// The whole file, readable on light and dark pages.
    pub(crate) fn finish(self) -> String {
        let height = self.bottom + 10.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"Helvetica,Arial,sans-serif\" fill=\"#1c2127\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.svg
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_drawn_where_the_axes_say() {
        let mut plot = Plot::new("a < b", "°C", (0.0, 10.0), (0.0, 4.0), &[(5.0, "noon".into())]);
        plot.steps(&[(0.0, 1.0), (5.0, 3.0)], 10.0, 0.5, KEPT);
        plot.dots(&[(10.0, 4.0)], KEPT);
        let svg = plot.finish();
        // Half of the width is (800 - 56 - 16) / 2 beyond the margin; the value 3 of 4 is a quarter of 240 below the top.
        assert!(svg.contains("M56.0 224.0H420.0L420.0 104.0H784.0"), "{svg}");
        assert!(svg.contains("M784.0 44.0m-2.5"), "{svg}");
        assert!(svg.contains(">a &lt; b<") && svg.ends_with("</svg>\n"));
    }
}
