//! Does each subject's embedding explain its own photos best? Photos of i under the vectors of j, same noise.

use likeness_proto::v1;
use likeness_trainer::Lesson;
use serde_json::{Value, json};

use crate::world::{AnyError, World};

pub(crate) fn measure(world: &World) -> Result<Value, AnyError> {
    let spec = world.spec(v1::TextualInversion::default())?;
    let learned = world.learn_all(&spec)?;
    println!("### Evaluation loss of photos (rows) under vectors (columns)\n");
    let names: Vec<_> = world.subjects.iter().map(|(name, _)| name.as_str()).collect();
    println!(
        "| photos of | {} | untrained | smallest is its own |\n|---|{}---|---|",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    let mut rows = Vec::new();
    for (own, (name, subject)) in world.subjects.iter().enumerate() {
        let lesson = Lesson::new(&world.model, subject, &spec)?;
        let loss = |rows: &[f32]| -> Result<f32, AnyError> { Ok(lesson.evaluate(rows)?) };
        let row =
            learned.iter().map(|l| loss(&l.rows.flatten_all()?.to_vec1::<f32>()?)).collect::<Result<Vec<_>, _>>()?;
        let untrained = loss(&lesson.start()?.rows())?;
        let smallest = row.iter().all(|loss| row[own] <= *loss);
        let cells: Vec<_> = row.iter().map(|loss| format!("{loss:.4}")).collect();
        println!("| {name} | {} | {untrained:.4} | {} |", cells.join(" | "), if smallest { "yes" } else { "NO" });
        rows.push(json!({ "photos": name, "losses": row, "untrained": untrained, "own_is_smallest": smallest }));
    }
    println!();
    Ok(rows.into())
}
