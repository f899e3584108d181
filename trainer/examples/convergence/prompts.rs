//! Do prompts still work? The share of avatars that show the background or style asked for, with a subject's vectors and with
//! the untrained initialiser. Pixels decide.

use std::ops::ControlFlow;

use likeness_diffusion::{Look, Placeholder, RgbPixels, SamplerKind, Shot, Start, Tensor, render};
use likeness_proto::v1;
use serde_json::{Value, json};

use crate::world::{AnyError, INIT, TOKEN, World};

const SEEDS: u64 = 8;
const STEPS: usize = 25;
const GUIDANCE: f64 = 4.0;

/// What a prompt asks for, and how pixels show it.
#[derive(Clone, Copy)]
enum Asked {
    /// The colour of [`PALETTE`] that the border is nearest to.
    Border(&'static str),
    /// No colour anywhere.
    Gray,
    /// Every pixel's colour is that of old paper at its lightness.
    Sepia,
}

const PROMPTS: [(&str, Asked); 8] = [
    ("a photo of {} on a red background", Asked::Border("red")),
    ("a photo of {} on a blue background", Asked::Border("blue")),
    ("a photo of {} on a green background", Asked::Border("green")),
    ("a photo of {} on a yellow background", Asked::Border("yellow")),
    ("a photo of {} under a night sky", Asked::Border("night")),
    ("a photo of {} in the snow", Asked::Border("snow")),
    ("a black and white photo of {}", Asked::Gray),
    ("a sepia photo of {}", Asked::Sepia),
];

/// The backgrounds of the bundled model's pictures (models/avatar-tiny/training/people.py, draw.mjs).
const PALETTE: [(&str, [f32; 3]); 12] = [
    ("red", [216.0, 52.0, 44.0]),
    ("orange", [242.0, 140.0, 40.0]),
    ("yellow", [244.0, 208.0, 63.0]),
    ("green", [63.0, 164.0, 91.0]),
    ("blue", [59.0, 98.0, 214.0]),
    ("purple", [125.0, 75.0, 194.0]),
    ("pink", [240.0, 143.0, 181.0]),
    ("white", [247.0, 247.0, 247.0]),
    ("gray", [154.0, 154.0, 162.0]),
    ("black", [35.0, 35.0, 43.0]),
    ("night", [19.0, 26.0, 62.0]),
    ("snow", [223.0, 233.0, 245.0]),
];

pub(crate) fn measure(world: &World) -> Result<Value, AnyError> {
    println!("### Share of avatars that show what the prompt asks for ({SEEDS} seeds a prompt)\n");
    let header: Vec<_> = PROMPTS.iter().map(|(prompt, _)| prompt.replace("a photo of {} ", "")).collect();
    println!("| vectors | {} | all |\n|---|{}---|", header.join(" | "), "---|".repeat(PROMPTS.len()));
    let mut rows = vec![row(world, "untrained", INIT, None)?];
    let learned = world.learn_all(&world.spec(v1::TextualInversion::default())?)?;
    for ((name, _), learned) in world.subjects.iter().zip(&learned) {
        rows.push(row(world, name, TOKEN, Some(&learned.rows))?);
    }
    println!();
    Ok(rows.into())
}

fn row(world: &World, name: &str, word: &str, rows: Option<&Tensor>) -> Result<Value, AnyError> {
    let shares = PROMPTS.map(|(prompt, asked)| -> Result<f64, AnyError> {
        let pictures = draw(world, &prompt.replace("{}", word), rows)?;
        Ok(pictures.iter().filter(|picture| shows(picture, asked)).count() as f64 / SEEDS as f64)
    });
    let shares = shares.into_iter().collect::<Result<Vec<_>, _>>()?;
    let all = shares.iter().sum::<f64>() / shares.len() as f64;
    let cells: Vec<_> = shares.iter().map(|share| format!("{:.0} %", 100.0 * share)).collect();
    println!("| {name} | {} | {:.1} % |", cells.join(" | "), 100.0 * all);
    Ok(json!({ "vectors": name, "shares": shares, "all": all }))
}

fn draw(world: &World, prompt: &str, rows: Option<&Tensor>) -> Result<Vec<RgbPixels>, AnyError> {
    let model = &world.model;
    let placeholder =
        rows.map(|rows| Ok::<_, AnyError>(Placeholder { token: TOKEN.to_owned(), vectors: rows.dim(0)? }));
    let prompt = model.tokenizer.encode(prompt, placeholder.transpose()?.as_ref())?;
    let negative = model.tokenizer.encode("", None)?;
    let shot = |seed| Shot { prompt: prompt.clone(), negative: negative.clone(), noise: Start::Seed(seed) };
    let shots: Vec<_> = (0..SEEDS).map(shot).collect();
    let side = model.native_size();
    let look = Look { sampler: SamplerKind::Ddim, steps: STEPS, guidance: GUIDANCE, width: side, height: side };
    Ok(render(model, rows, &shots, &look, &mut |_| ControlFlow::Continue(()))?)
}

fn shows(picture: &RgbPixels, asked: Asked) -> bool {
    let (pixels, _) = picture.bytes.as_chunks::<3>();
    let pixels: Vec<[f32; 3]> = pixels.iter().map(|pixel| pixel.map(f32::from)).collect();
    let mean = |error: fn(&[f32; 3]) -> f32| pixels.iter().map(error).sum::<f32>() / pixels.len() as f32;
    match asked {
        Asked::Border(wanted) => nearest(border(&pixels, picture.width, picture.height)) == wanted,
        Asked::Gray => mean(chroma) < 16.0,
        Asked::Sepia => mean(off_sepia) < 20.0,
    }
}

/// Median colour of the upper edge (a twelfth of the height) and the sides down to the middle (a sixteenth of the width each).
fn border(pixels: &[[f32; 3]], width: usize, height: usize) -> [f32; 3] {
    let on_border = |&(place, _): &(usize, &[f32; 3])| {
        let (x, y) = (place % width, place / width);
        y < height / 12 || (y < height / 2 && (x < width / 16 || x >= width - width / 16))
    };
    let border: Vec<_> = pixels.iter().enumerate().filter(on_border).map(|(_, pixel)| *pixel).collect();
    [0, 1, 2].map(|channel| {
        let mut values: Vec<f32> = border.iter().map(|pixel| pixel[channel]).collect();
        values.sort_by(f32::total_cmp);
        values[values.len() / 2]
    })
}

fn nearest(colour: [f32; 3]) -> &'static str {
    let distance = |other: &[f32; 3]| colour.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    PALETTE.iter().min_by(|a, b| distance(&a.1).total_cmp(&distance(&b.1))).map_or("", |(name, _)| name)
}

fn chroma(pixel: &[f32; 3]) -> f32 {
    pixel.iter().copied().fold(0.0, f32::max) - pixel.iter().copied().fold(255.0, f32::min)
}

fn luma(pixel: &[f32; 3]) -> f32 {
    0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
}

/// How far a pixel's colour, lightness aside, is from the sepia ramp #2b1a0e – #a9794a – #f6e3c0, in its worst channel.
fn off_sepia(pixel: &[f32; 3]) -> f32 {
    const RAMP: [[f32; 3]; 3] = [[43.0, 26.0, 14.0], [169.0, 121.0, 74.0], [246.0, 227.0, 192.0]];
    let place = luma(pixel) / 127.5;
    let (low, share) = if place < 1.0 { (0, place) } else { (1, place - 1.0) };
    let ramp = [0, 1, 2].map(|channel| RAMP[low][channel] + (RAMP[low + 1][channel] - RAMP[low][channel]) * share);
    let tint = |colour: &[f32; 3], channel: usize| colour[channel] - luma(colour);
    (0..3).map(|channel| (tint(pixel, channel) - tint(&ramp, channel)).abs()).fold(0.0, f32::max)
}
