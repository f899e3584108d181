//! Loss, steps and time of both parameterisations, one and two vectors, several learning rates.

use likeness_proto::{Parameterization, v1};
use likeness_trainer::Learned;
use serde_json::{Value, json};

use crate::world::{AnyError, World};

const DIRECTION: (Parameterization, &[f64]) = (Parameterization::Direction, &[0.02, 0.05, 0.1]);
const ADAMW: (Parameterization, &[f64]) = (Parameterization::Adamw, &[0.0005, 0.001, 0.002, 0.005]);

pub(crate) fn measure(world: &World) -> Result<Value, AnyError> {
    println!("### Parameterisation, learning rate, vectors\n");
    println!(
        "| parameterisation | vectors | rate | {} mean best | seconds |",
        subjects(world, "first → best (step; stopped at, norm)")
    );
    println!("|---|---|---|{}---|---|", "---|".repeat(world.subjects.len()));
    let mut rows = Vec::new();
    for (parameterization, rates) in [DIRECTION, ADAMW] {
        for vectors in [1, 2] {
            for &rate in rates {
                rows.push(row(world, parameterization, vectors, rate)?);
            }
        }
    }
    println!();
    Ok(rows.into())
}

fn subjects(world: &World, what: &str) -> String {
    world.subjects.iter().map(|(name, _)| format!("{name}: {what} |")).collect::<Vec<_>>().join(" ")
}

fn row(world: &World, parameterization: Parameterization, vectors: u32, rate: f64) -> Result<Value, AnyError> {
    let spec = world.spec(v1::TextualInversion {
        vectors: Some(vectors),
        parameterization: Some(parameterization.encode()),
        learning_rate: Some(rate),
    })?;
    let learned = world.learn_all(&spec)?;
    let cells = learned.iter().map(cell).collect::<Result<Vec<_>, _>>()?;
    let mean = learned.iter().map(|l| f64::from(l.best_loss)).sum::<f64>() / learned.len() as f64;
    let seconds: f64 = learned.iter().map(|l| l.seconds).sum();
    println!("| {parameterization} | {vectors} | {rate} | {} | {mean:.4} | {seconds:.0} |", cells.join(" | "));
    let facts = |l: &Learned| {
        let evaluations: Vec<_> = l.evaluations.iter().map(|e| (e.step, e.loss)).collect();
        json!({ "steps": l.steps, "best_step": l.best_step, "best_loss": l.best_loss, "stop_reason": l.reason.as_str(),
                "seconds": l.seconds, "evaluations": evaluations })
    };
    Ok(json!({ "parameterization": parameterization.as_str(), "vectors": vectors, "learning_rate": rate,
               "subjects": learned.iter().map(facts).collect::<Vec<_>>() }))
}

fn cell(learned: &Learned) -> Result<String, AnyError> {
    let norms: Vec<f32> = learned.rows.sqr()?.sum(1)?.sqrt()?.to_vec1()?;
    let norm = norms.iter().sum::<f32>() / norms.len() as f32;
    let first = learned.evaluations.first().map_or(f32::NAN, |e| e.loss);
    Ok(format!("{first:.4} → {:.4} ({}; {}, {norm:.2})", learned.best_loss, learned.best_step, learned.steps))
}
