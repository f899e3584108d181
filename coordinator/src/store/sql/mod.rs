//! The tables and what is asked of them: one text for both engines. Each engine includes this folder as its own module,
//! compiled over its own connection type, and supplies `dialect`, the few statements that are not the same, and `turn`, how
//! transactions that write begin and end.

mod audit;
mod census;
mod courses;
mod engine;
mod erasures;
mod fleet;
mod jobs;
mod keys;
mod losses;
mod outset;
mod previews;
mod reports;
mod results;
mod roster;
mod rows;
mod sessions;
mod shares;
mod subjects;
mod submit;
mod tenants;
mod upkeep;

use super::dialect::{Connection, Row};
use super::{dialect, turn};
use crate::store::StoreError;
use engine::Writing;

pub(crate) use audit::after as audit_after;
pub(super) use courses::Place;
pub(crate) use engine::Engine;

type Result<T> = std::result::Result<T, StoreError>;
