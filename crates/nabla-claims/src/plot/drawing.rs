//! Draws plots.

use std::collections::BTreeSet;
use std::fmt::Display;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::{DOTTED, DotPlot, DotRow, LinePlot, PlotError, Theme};
use crate::names::Role;
use crate::summary::Summary;

/// Drawing units per CSS pixel: the backend rounds to whole units, which would be visible in curves.
pub(super) const SCALE: i32 = 4;
pub(super) const WIDTH: i32 = 720;
/// The height of curves, without legend.
pub(super) const CURVES: i32 = 340;
const FONT: f64 = 13.0;
/// A rough width of a letter, in em, for the layout; the renderer's font is unknown. It is that of the widest
/// common font: with less, names are cut off in DejaVu Sans.
const LETTER: f64 = 0.62;

/// The theme's ink replaces this colour after drawing, so no data colour may equal it.
const INK: RGBColor = RGBColor(1, 2, 3);
const STANDALONE_INK: &str = "#222222";

/// Paul Tol's bright scheme without its grey: distinct for colour-blind readers. Then six more, which differ from
/// these in lightness.
const PALETTE: [RGBColor; 12] = [
    RGBColor(0x44, 0x77, 0xAA),
    RGBColor(0xEE, 0x66, 0x77),
    RGBColor(0x22, 0x88, 0x33),
    RGBColor(0xAA, 0x33, 0x77),
    RGBColor(0xCC, 0xBB, 0x44),
    RGBColor(0x66, 0xCC, 0xEE),
    RGBColor(0xEE, 0x77, 0x33),
    RGBColor(0x33, 0x22, 0x88),
    RGBColor(0x00, 0x99, 0x88),
    RGBColor(0x77, 0x77, 0x77),
    RGBColor(0x88, 0x22, 0x22),
    RGBColor(0x99, 0xAA, 0x00),
];

fn hex(color: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// Font sizes: the SVG backend divides them by 1.24.
fn font(size: f64) -> f64 {
    size * 1.24 * f64::from(SCALE)
}

fn ink_text(size: f64) -> TextStyle<'static> {
    ("sans-serif", font(size)).into_font().color(&INK)
}

fn text_width(text: &str, size: f64) -> i32 {
    (text.chars().count() as f64 * size * LETTER).ceil() as i32
}

/// Draws curves.
///
/// A curve of many points is thinned to the lowest and the highest point of each of 800 stretches
/// of equal count, which looks the same at this size.
///
/// # Errors
/// [`PlotError::NothingToShow`] if no point can be shown.
pub fn line_plot(plot: &LinePlot, theme: Theme) -> Result<String, PlotError> {
    let curves: Vec<(&str, Vec<[f64; 2]>)> = plot
        .series
        .iter()
        .map(|s| {
            (
                s.name(),
                thin(s.points.iter().filter(|p| plot.shows(p)).copied().collect()),
            )
        })
        .collect();
    let all = || curves.iter().flat_map(|(_, points)| points);
    let nothing = || PlotError::NothingToShow(plot.title.clone());
    let x = Axis::over(all().map(|p| p[0]), plot.log_x, 7).ok_or_else(nothing)?;
    let y = Axis::over(all().map(|p| p[1]), plot.log_y, 6).ok_or_else(nothing)?;
    let names: Vec<(&str, usize)> = curves
        .iter()
        .enumerate()
        .map(|(i, (name, _))| (*name, i))
        .collect();
    let (places, legend_rows) = legend_layout(&names, 64);
    let top = 30 + 20 * legend_rows;
    let label_width = y
        .ticks
        .iter()
        .map(|t| text_width(&y.label(*t), FONT))
        .max()
        .unwrap_or(0);
    let failed = |error: &dyn Display| drawing(&plot.title, error);

    render(&plot.title, top + CURVES, theme, |root| {
        for (place, (name, color)) in places.iter().zip(&names) {
            legend_entry(root, *place, name, *color).map_err(|e| failed(&e))?;
        }
        let mut chart = ChartBuilder::on(root)
            .margin_top(top * SCALE)
            .margin_right(18 * SCALE)
            .margin_left(4 * SCALE)
            .x_label_area_size(44 * SCALE)
            .y_label_area_size((label_width + 34) * SCALE)
            .build_cartesian_2d(x.clone(), y.clone())
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.15).stroke_width(SCALE as u32))
            .axis_style(INK.mix(0.6).stroke_width(SCALE as u32))
            .label_style(ink_text(FONT))
            .axis_desc_style(ink_text(FONT))
            .x_desc(&plot.x_label)
            .y_desc(&plot.y_label)
            .set_all_tick_mark_size(4 * SCALE)
            .x_label_formatter(&|v| x.label(*v))
            .y_label_formatter(&|v| y.label(*v))
            .draw()
            .map_err(|e| failed(&e))?;
        for (i, (_, points)) in curves.iter().enumerate() {
            let style = PALETTE[i % PALETTE.len()].stroke_width(2 * SCALE as u32);
            let line = points.iter().map(|p| (p[0], p[1]));
            chart
                .draw_series(LineSeries::new(line, style))
                .map_err(|e| failed(&e))?;
            if points.len() <= DOTTED {
                let dots = points
                    .iter()
                    .map(|p| Circle::new((p[0], p[1]), 3 * SCALE, style.filled()));
                chart.draw_series(dots).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    })
}

/// Draws values with error bars.
///
/// # Errors
/// [`PlotError::NothingToShow`] if there is no panel or a panel has no finite value.
pub fn dot_plot(plot: &DotPlot, theme: Theme) -> Result<String, PlotError> {
    const ROW: i32 = 26;
    let nothing = || PlotError::NothingToShow(plot.title.clone());
    if plot.panels.is_empty() {
        return Err(nothing());
    }
    let names = plot
        .labels
        .iter()
        .map(|label| text_width(label, FONT))
        .max()
        .unwrap_or(0);
    let names = (names + 18).min(WIDTH * 2 / 5);
    let rows = plot.labels.len() as i32;
    let mut roles: Vec<Role> = Vec::new();
    for row in plot.panels.iter().flat_map(|panel| &panel.rows).flatten() {
        if !roles.contains(&row.role) {
            roles.push(row.role);
        }
    }
    roles.sort_by_key(|role| role_color(*role));
    let legend: Vec<(&str, usize)> = roles
        .iter()
        .map(|role| (role.word(), role_color(*role)))
        .collect();
    let (places, legend_rows) = legend_layout(&legend, names);
    let top = 30 + 20 * legend_rows;
    let band = 26 + ROW * rows + 34;
    let beside = panels_beside(plot, names);
    let bands = plot.panels.len().div_ceil(beside) as i32;
    let panel_width = (WIDTH - names) / beside as i32;
    let failed = |error: &dyn Display| drawing(&plot.title, error);

    render(&plot.title, top + band * bands + 24, theme, |root| {
        for (place, (name, color)) in places.iter().zip(&legend) {
            legend_entry(root, *place, name, *color).map_err(|e| failed(&e))?;
        }
        for (i, panel) in plot.panels.iter().enumerate() {
            let (column, line) = ((i % beside) as i32, (i / beside) as i32);
            let (left, upper) = (names + column * panel_width, top + line * band);
            let values = panel.rows.iter().flatten().flat_map(|row| {
                let finite = row.values.iter().copied().filter(|v| v.is_finite());
                let bar = Summary::of(&row.values).and_then(|s| Some((s.mean, s.spread?)));
                let ends = bar.into_iter().flat_map(|(m, s)| [m - s, m + s]);
                finite.chain(ends.filter(|v| v.is_finite()))
            });
            let ticks = (panel_width / 75).max(2) as usize;
            let x = Axis::over(values, false, ticks).ok_or_else(nothing)?;
            let area = root.margin(
                upper * SCALE,
                (top + band * bands + 24 - upper - band) * SCALE,
                left * SCALE,
                (WIDTH - left - panel_width) * SCALE,
            );
            let mut chart = ChartBuilder::on(&area)
                .margin_top(26 * SCALE)
                .margin_right(18 * SCALE)
                .x_label_area_size(34 * SCALE)
                .build_cartesian_2d(x.clone(), -0.5..f64::from(rows) - 0.5)
                .map_err(|e| failed(&e))?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(INK.mix(0.15).stroke_width(SCALE as u32))
                .axis_style(INK.mix(0.6).stroke_width(SCALE as u32))
                .label_style(ink_text(FONT))
                .disable_y_mesh()
                .disable_y_axis()
                .set_all_tick_mark_size(4 * SCALE)
                .x_label_formatter(&|v| x.label(*v))
                .draw()
                .map_err(|e| failed(&e))?;
            let heading = ink_text(FONT).pos(Pos::new(HPos::Left, VPos::Center));
            let place = (left * SCALE, (upper + 13) * SCALE);
            let title = panel_title(&panel.title, panel_width);
            root.draw(&Text::new(title, place, heading))
                .map_err(|e| failed(&e))?;
            for (r, row) in panel.rows.iter().enumerate() {
                // Rows run from top to bottom, the chart's y axis from bottom to top.
                let y = f64::from(rows) - 1.0 - r as f64;
                let Some(row) = row else { continue };
                draw_row(&mut chart, row, y).map_err(|e| failed(&e))?;
            }
            if column == 0 {
                for (r, label) in plot.labels.iter().enumerate() {
                    let y = upper + 26 + ROW * r as i32 + ROW / 2;
                    let style = ink_text(FONT).pos(Pos::new(HPos::Right, VPos::Center));
                    let label = without_middle(label, names - 18);
                    let place = ((names - 12) * SCALE, y * SCALE);
                    root.draw(&Text::new(label, place, style))
                        .map_err(|e| failed(&e))?;
                }
            }
        }
        let style = ink_text(FONT).pos(Pos::new(HPos::Center, VPos::Center));
        let middle = (
            (names + WIDTH) / 2 * SCALE,
            (top + band * bands + 8) * SCALE,
        );
        root.draw(&Text::new(plot.x_label.clone(), middle, style))
            .map_err(|e| failed(&e))
    })
}

/// The number of panels beside each other: as many as leave their titles different from each other, up to
/// three.
///
/// - `names`: the width of the labels
fn panels_beside(plot: &DotPlot, names: i32) -> usize {
    let told_apart = |beside: &usize| {
        let width = (WIDTH - names) / *beside as i32;
        let titles = plot.panels.iter().map(|p| panel_title(&p.title, width));
        titles.collect::<BTreeSet<_>>().len() == plot.panels.len()
    };
    let most = plot.panels.len().clamp(1, 3);
    (2..=most).rev().find(told_apart).unwrap_or(1)
}

fn panel_title(title: &str, panel_width: i32) -> String {
    shorten(title, panel_width - 8)
}

type DotChart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, RangedCoordf64>>;

fn draw_row(
    chart: &mut DotChart<'_, '_>,
    row: &DotRow,
    y: f64,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let color = PALETTE[role_color(row.role) % PALETTE.len()];
    let finite = row.values.iter().copied().filter(|v| v.is_finite());
    let seeds = finite.map(|v| Circle::new((v, y), 3 * SCALE, color.mix(0.45).filled()));
    chart.draw_series(seeds)?;
    let Some(Summary { mean, spread }) = Summary::of(&row.values).filter(|s| s.mean.is_finite())
    else {
        return Ok(());
    };
    if let Some(spread) = spread.filter(|spread| *spread > 0.0) {
        let style = color.stroke_width(2 * SCALE as u32);
        let (lo, hi) = (mean - spread, mean + spread);
        let bar = [
            [(lo, y), (hi, y)],
            [(lo, y - 0.18), (lo, y + 0.18)],
            [(hi, y - 0.18), (hi, y + 0.18)],
        ];
        chart.draw_series(bar.map(|ends| PathElement::new(ends.to_vec(), style)))?;
    }
    chart.draw_series([Circle::new((mean, y), 5 * SCALE, color.filled())])?;
    Ok(())
}

fn role_color(role: Role) -> usize {
    match role {
        Role::Method => 0,
        Role::Ablation => 2,
        Role::Baseline => 1,
    }
}

fn drawing(title: &str, error: &dyn Display) -> PlotError {
    PlotError::Drawing {
        title: title.to_owned(),
        reason: error.to_string(),
    }
}

/// How many letters fit.
fn letters(width: i32) -> usize {
    (f64::from(width) / (FONT * LETTER)).max(4.0) as usize
}

/// Without its end, if it is too long.
fn shorten(title: &str, width: i32) -> String {
    let letters = letters(width);
    if title.chars().count() <= letters {
        return title.to_owned();
    }
    title.chars().take(letters - 1).chain(['…']).collect()
}

/// Without its middle, if it is too long: variants often differ at the end only.
fn without_middle(label: &str, width: i32) -> String {
    let (letters, count) = (letters(width), label.chars().count());
    if count <= letters {
        return label.to_owned();
    }
    let end = (letters - 1) / 2;
    let begin = label.chars().take(letters - 1 - end);
    begin
        .chain(['…'])
        .chain(label.chars().skip(count - end))
        .collect()
}

/// The positions of the legend's entries, row by row from `left` on, and the number of rows.
fn legend_layout(names: &[(&str, usize)], left: i32) -> (Vec<(i32, i32)>, i32) {
    let (mut x, mut row) = (left, 0);
    let mut places = Vec::new();
    for (name, _) in names {
        let width = 20 + text_width(name, FONT) + 18;
        if x > left && x + width > WIDTH {
            (x, row) = (left, row + 1);
        }
        places.push((x, 36 + 20 * row));
        x += width;
    }
    (places, if names.is_empty() { 0 } else { row + 1 })
}

fn legend_entry(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    (x, y): (i32, i32),
    name: &str,
    color: usize,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let color = PALETTE[color % PALETTE.len()];
    root.draw(&Circle::new(
        ((x + 6) * SCALE, y * SCALE),
        5 * SCALE,
        color.filled(),
    ))?;
    let style = ink_text(FONT).pos(Pos::new(HPos::Left, VPos::Center));
    root.draw(&Text::new(
        name.to_owned(),
        ((x + 16) * SCALE, y * SCALE),
        style,
    ))
}

/// Draws title and content, then gives the SVG its size in CSS pixels and its theme's colours.
fn render(
    title: &str,
    height: i32,
    theme: Theme,
    content: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    let (width, height) = ((WIDTH * SCALE) as u32, (height * SCALE) as u32);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        if theme == Theme::Standalone {
            root.fill(&WHITE).map_err(|e| drawing(title, &e))?;
        }
        let style = ink_text(15.0).pos(Pos::new(HPos::Left, VPos::Center));
        let place = (8 * SCALE, 14 * SCALE);
        root.draw(&Text::new(title.to_owned(), place, style))
            .map_err(|e| drawing(title, &e))?;
        content(&root)?;
        root.present().map_err(|e| drawing(title, &e))?;
    }
    let size = format!("width=\"{width}\" height=\"{height}\" viewBox");
    let scale = SCALE as u32;
    let mut css = format!(
        "width=\"{}\" height=\"{}\" role=\"img\" ",
        width / scale,
        height / scale
    );
    css.push_str(&format!("aria-label=\"{}\" viewBox", escape(title)));
    let mut svg = svg.replacen(&size, &css, 1);
    // Colours only occur as whole attribute values, so titles that look like one are safe.
    match theme {
        Theme::Standalone => {
            svg = svg.replace(
                &format!("=\"{}\"", hex(INK)),
                &format!("=\"{STANDALONE_INK}\""),
            );
        }
        Theme::Page => {
            svg = svg.replace(&format!("=\"{}\"", hex(INK)), "=\"currentColor\"");
            for (k, color) in PALETTE.into_iter().enumerate() {
                let (color, k) = (hex(color), k + 1);
                let variable = format!("=\"var(--series-{k}, {color})\"");
                svg = svg.replace(&format!("=\"{color}\""), &variable);
            }
        }
    }
    Ok(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The lowest and the highest point of each of 800 stretches; short curves are unchanged.
fn thin(points: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    const STRETCHES: usize = 800;
    if points.len() <= 2 * STRETCHES {
        return points;
    }
    let mut thinned = Vec::with_capacity(2 * STRETCHES + 2);
    for stretch in points.chunks(points.len().div_ceil(STRETCHES)) {
        let by_y = |a: &&[f64; 2], b: &&[f64; 2]| a[1].total_cmp(&b[1]);
        let (Some(low), Some(high)) = (stretch.iter().min_by(by_y), stretch.iter().max_by(by_y))
        else {
            continue;
        };
        // Sorted by x, so that the curve never runs backwards.
        if low[0] <= high[0] {
            thinned.extend([*low, *high]);
        } else {
            thinned.extend([*high, *low]);
        }
    }
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{DotPanel, Series};

    fn decay() -> LinePlot {
        let points = (0..50).map(|i| [f64::from(i), (-0.2 * f64::from(i)).exp()]);
        LinePlot::new("Decay <1>", "step", "loss").with_series(Series::new("exp & co", points))
    }

    /// All numbers of the attribute `name` in the SVG.
    fn numbers(svg: &str, name: &str) -> Vec<f64> {
        let key = format!(" {name}=\"");
        svg.split(&key)
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect()
    }

    fn polyline(svg: &str) -> Vec<(f64, f64)> {
        let tag = svg
            .split("<polyline")
            .find(|tag| tag.contains("stroke-width=\"8\""))
            .unwrap();
        let points = tag
            .split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let pair = |p: &str| {
            p.split_once(',')
                .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
        };
        points.split_whitespace().filter_map(pair).collect()
    }

    #[test]
    fn an_exponential_is_straight_on_a_logarithmic_axis_and_not_on_a_linear_one() {
        let bend = |svg: &str| {
            let line = polyline(svg);
            assert_eq!(line.len(), 50);
            let ((x0, y0), (x1, y1)) = (line[0], line[49]);
            let off = |(x, y): &(f64, f64)| (y - (y0 + (y1 - y0) * (x - x0) / (x1 - x0))).abs();
            line.iter().map(off).fold(0.0, f64::max)
        };
        // The backend rounds to whole units.
        assert!(bend(&line_plot(&decay().log_y(), Theme::Page).unwrap()) <= 1.0);
        assert!(bend(&line_plot(&decay(), Theme::Page).unwrap()) > 100.0);
    }

    #[test]
    fn curves_stay_within_the_picture_and_plots_are_deterministic() {
        for plot in [
            decay(),
            decay().log_x(),
            decay().log_y(),
            decay().log_x().log_y(),
        ] {
            let svg = line_plot(&plot, Theme::Standalone).unwrap();
            assert_eq!(svg, line_plot(&plot, Theme::Standalone).unwrap());
            let height: f64 = numbers(&svg, "height")[0] * f64::from(SCALE);
            for (x, y) in polyline(&svg) {
                assert!(x > 0.0 && x < f64::from(WIDTH * SCALE) && y > 0.0 && y < height);
            }
            assert!(svg.contains("Decay &lt;1&gt;") && svg.contains("exp &amp; co"));
            assert!(!svg.contains(&hex(INK)));
        }
    }

    #[test]
    fn a_page_decides_the_colours() {
        let svg = line_plot(&decay(), Theme::Page).unwrap();
        assert!(svg.contains("currentColor") && svg.contains("var(--series-1, #4477AA)"));
        assert!(!svg.contains("#FFFFFF"));
    }

    #[test]
    fn what_cannot_be_shown_is_said() {
        let nothing = Err(PlotError::NothingToShow("t".into()));
        let plot = |points: Vec<[f64; 2]>| {
            LinePlot::new("t", "x", "y")
                .log_y()
                .with_series(Series::new("s", points))
        };
        assert_eq!(line_plot(&plot(vec![]), Theme::Page), nothing);
        assert_eq!(
            line_plot(&plot(vec![[1.0, -1.0], [2.0, f64::NAN]]), Theme::Page),
            nothing
        );
        assert!(line_plot(&plot(vec![[1.0, 3.0]]), Theme::Page).is_ok());
        let empty = DotPlot {
            title: "t".into(),
            x_label: String::new(),
            labels: vec![],
            panels: vec![],
        };
        assert_eq!(dot_plot(&empty, Theme::Page), nothing);
    }

    #[test]
    fn dots_lie_where_their_values_are() {
        let row = |values: &[f64]| {
            let values = values.to_vec();
            Some(DotRow {
                label: String::new(),
                role: Role::Method,
                values,
            })
        };
        let plot = DotPlot {
            title: "t".into(),
            x_label: "v".into(),
            labels: vec!["a".into(), "b".into(), "gone".into()],
            panels: vec![DotPanel {
                title: "p".into(),
                rows: vec![row(&[1.0, 2.0, 3.0]), row(&[4.0, 4.0, 4.0]), None],
            }],
        };
        let svg = dot_plot(&plot, Theme::Page).unwrap();
        // The legend's dot, then for each row the seeds' and the mean's.
        let x = numbers(&svg, "cx");
        assert_eq!(x.len(), 1 + 4 + 4);
        let y = numbers(&svg, "cy");
        let (first, mean, other) = (x[1], x[4], x[8]);
        assert!((mean - (x[1] + x[3]) / 2.0).abs() <= 1.0);
        assert!(((other - first) / (mean - first) - 3.0).abs() < 0.02);
        assert!(y[1] < y[5], "rows run from top to bottom");
        // The error bar reaches one sample deviation, here 1, to both sides.
        let bar = polyline(&svg);
        assert!((bar[0].0 - x[1]).abs() <= 1.0 && (bar[1].0 - x[3]).abs() <= 1.0);
    }

    #[test]
    fn titles_of_panels_can_be_told_apart() {
        let plot = |titles: &[&str]| {
            let row = DotRow {
                label: String::new(),
                role: Role::Method,
                values: vec![1.0, 2.0],
            };
            let panel = |title: &&str| DotPanel {
                title: (*title).to_owned(),
                rows: vec![Some(row.clone())],
            };
            DotPlot {
                title: "t".into(),
                x_label: "v".into(),
                labels: vec!["a name that takes much of the width".into()],
                panels: titles.iter().map(panel).collect(),
            }
        };
        assert_eq!(panels_beside(&plot(&["a", "b", "c", "d"]), 280), 3);
        assert_eq!(panels_beside(&plot(&["a", "b"]), 280), 2);
        assert_eq!(panels_beside(&plot(&["a"]), 280), 1);
        let long = [
            "digits 1 / 8",
            "digits 1 / 8, one in 10",
            "digits 1 / 8, one in 50",
        ];
        let (three, two) = ((WIDTH - 280) / 3, (WIDTH - 280) / 2);
        assert_eq!(panel_title(long[1], three), panel_title(long[2], three));
        assert_ne!(panel_title(long[1], two), panel_title(long[2], two));
        assert_eq!(panels_beside(&plot(&long), 280), 2);
        let svg = dot_plot(&plot(&long), Theme::Page).unwrap();
        assert!(svg.contains("one in 10") && svg.contains("one in 50"));
    }

    #[test]
    fn long_labels_keep_both_ends() {
        let label = "classifier-free guidance, as many calls as LinearAG";
        let width = (30.0 * FONT * LETTER) as i32;
        assert_eq!(without_middle("short", width), "short");
        let shown = without_middle(label, width);
        assert!(shown.chars().count() <= 30);
        assert!(shown.starts_with("classifier-fre") && shown.ends_with("as LinearAG"));
    }

    #[test]
    fn long_curves_keep_their_extremes() {
        let mut points: Vec<[f64; 2]> = (0..20_000)
            .map(|i| [f64::from(i), (f64::from(i) * 0.1).sin()])
            .collect();
        points[12_345][1] = 7.0;
        let thinned = thin(points.clone());
        assert!(thinned.len() <= 1700);
        assert!(thinned.contains(&[12_345.0, 7.0]));
        assert!(thinned.windows(2).all(|w| w[0][0] <= w[1][0]));
    }
}
