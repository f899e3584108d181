//! Every frozen op, forwards and back: against PyTorch (`goldens`), and against plain compositions of candle ops on random
//! shapes (`properties`). The ops' own files compare them with such compositions on chosen shapes.

mod goldens;
pub(super) mod plain;
mod properties;
