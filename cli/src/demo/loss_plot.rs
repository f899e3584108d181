//! The loss curve as a picture: each step's loss, and the evaluation set's.

use crate::exit::Failure;
use likeness_proto::v1;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

const SIZE: (u32, u32) = (960, 540);
const FONT: &str = "sans-serif";
const STEP_COLOUR: RGBColor = RGBColor(158, 178, 204);
const EVALUATION_COLOUR: RGBColor = RGBColor(200, 60, 40);

/// Draws the curve; the bytes of a PNG.
///
/// # Errors
/// When the picture cannot be drawn, which no curve is a reason for.
pub fn plot(curve: &v1::LossCurve) -> Result<Vec<u8>, Failure> {
    register_font(FONT, FontStyle::Normal, likeness_sampler::sheet::FONT)
        .map_err(|_| Failure::unexpected("the bundled font cannot be read"))?;
    let mut pixels = vec![255; (SIZE.0 * SIZE.1 * 3) as usize];
    draw(curve, &mut pixels)?;
    encode(&pixels).map_err(Failure::unexpected)
}

/// RGB pixels as a PNG.
fn encode(pixels: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}

fn draw(curve: &v1::LossCurve, pixels: &mut [u8]) -> Result<(), Failure> {
    let steps = (curve.first_step..).zip(&curve.losses).map(|(step, loss)| (step, *loss)).filter(finite);
    let steps: Vec<_> = steps.collect();
    let evaluations = curve.evaluations.iter().map(|evaluation| (evaluation.step, evaluation.loss)).filter(finite);
    let evaluations: Vec<_> = evaluations.collect();
    draw_series(&steps, &evaluations, pixels)
        .map_err(|error| Failure::unexpected(format!("cannot draw the loss curve: {error}")))
}

fn finite((_, loss): &(u32, f32)) -> bool {
    loss.is_finite()
}

fn draw_series(
    steps: &[(u32, f32)],
    evaluations: &[(u32, f32)],
    pixels: &mut [u8],
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || steps.iter().chain(evaluations);
    let last = all().map(|(step, _)| *step).max().unwrap_or(1).max(1);
    let highest = all().map(|(_, loss)| *loss).fold(f32::MIN_POSITIVE, f32::max);

    let area = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(20)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last, 0f32..highest * 1.05)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("step").y_desc("loss").label_style((FONT, 16)).draw()?;

    chart
        .draw_series(LineSeries::new(steps.iter().copied(), STEP_COLOUR))?
        .label("each step")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], STEP_COLOUR));
    let line = EVALUATION_COLOUR.stroke_width(2);
    chart
        .draw_series(LineSeries::new(evaluations.iter().copied(), line).point_size(3))?
        .label("evaluation set")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], line));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .label_font((FONT, 16))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The colours of the picture's pixels.
    fn colours(curve: &v1::LossCurve) -> Vec<[u8; 3]> {
        let png = plot(curve).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    }

    #[test]
    fn a_curve_is_drawn_in_both_colours() {
        let curve = v1::LossCurve {
            first_step: 1,
            losses: vec![0.3, 0.2, 0.25, 0.1],
            evaluations: vec![v1::Evaluation { step: 0, loss: 0.3 }, v1::Evaluation { step: 4, loss: 0.1 }],
        };
        let colours = colours(&curve);
        for colour in [STEP_COLOUR, EVALUATION_COLOUR] {
            assert!(colours.contains(&[colour.0, colour.1, colour.2]), "{colour:?}");
        }
    }

    #[test]
    fn an_empty_or_broken_curve_is_still_a_picture() {
        let size = (SIZE.0 * SIZE.1) as usize;
        assert_eq!(colours(&v1::LossCurve::default()).len(), size);
        let curve = v1::LossCurve { losses: vec![f32::NAN, f32::INFINITY], ..Default::default() };
        assert_eq!(colours(&curve).len(), size);
    }
}
