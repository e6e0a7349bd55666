//! The error of every weight → a drawing: depth in the model to the right, relative error upwards, a colour a kind.

use crate::Result;
use crate::report::{folded, shown};
use crate::verify::Verified;
use plotters::prelude::*;

const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
    RGBColor(127, 127, 127),
];

/// "model.layers.3.mlp.up_proj.weight" → "mlp.up_proj": what the weights of one kind are called in every layer.
fn kind(name: &str) -> String {
    let folded = folded(&shown(name));
    let rest = folded.rsplit("*.").next().unwrap_or(&folded);
    rest.strip_suffix(".weight").unwrap_or(rest).to_string()
}

pub fn errors(all: &[Verified]) -> Result<String> {
    let mut kinds: Vec<String> = Vec::new();
    for v in all {
        let kind = kind(&v.name);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let finite = all.iter().map(Verified::relative).filter(|e| e.is_finite());
    let top = finite.fold(0.0, f64::max).max(1e-3) * 1.15;
    let mut text = String::new();
    let failed = |e: &dyn std::fmt::Display| format!("the plot cannot be drawn: {e}");
    {
        let area = SVGBackend::with_string(&mut text, (960, 480)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let (chart, legend) = area.split_horizontally(720);
        let mut chart = ChartBuilder::on(&chart)
            .caption("Relative error of NVFP4 weights", ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..all.len().max(1) as f64, 0.0..top)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("weight, in the order of the file")
            .y_desc("‖quantized − original‖ / ‖original‖")
            .draw()
            .map_err(|e| failed(&e))?;
        for (c, name) in kinds.iter().enumerate() {
            let colour = COLOURS[c.min(COLOURS.len() - 1)];
            let points =
                all.iter().enumerate().filter(|(_, v)| kind(&v.name) == *name && v.relative().is_finite());
            let dots = points.map(|(i, v)| Circle::new((i as f64 + 0.5, v.relative()), 3, colour.filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
        }
        // Beyond the colours that can be told apart, a kind has the last one.
        for (c, name) in kinds.iter().take(24).enumerate() {
            let (y, colour) = (40 + 18 * c as i32, COLOURS[c.min(COLOURS.len() - 1)]);
            legend.draw(&Circle::new((8, y), 4, colour.filled())).map_err(|e| failed(&e))?;
            let label = Text::new(name.clone(), (18, y - 6), ("sans-serif", 12));
            legend.draw(&label).map_err(|e| failed(&e))?;
        }
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn kinds_leave_the_layer_out() {
        assert_eq!(super::kind("model.layers.3.mlp.up_proj.weight"), "mlp.up_proj");
        assert_eq!(super::kind("lm_head.weight"), "lm_head");
    }
}
