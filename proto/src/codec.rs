//! Messages in buffers of their own size. tonic's codec begins every stream with 8 KiB and keeps them as long as it is open, which is most
//! of what a watch takes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// Bytes of a stream's first buffer.
const FIRST: usize = 64;
/// Bytes after which messages that are ready are sent without waiting for more: tonic's own number.
const ENOUGH: usize = 32 << 10;

/// Protocol buffers, as `tonic_prost::ProstCodec` has them.
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> tonic::codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Fitting<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Fitting<T> {
        Fitting(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(FIRST, ENOUGH))
    }
}

/// Encodes into as much room as the message takes.
pub(crate) struct Fitting<T>(PhantomData<T>);

impl<T: Message> Encoder for Fitting<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FIRST, ENOUGH)
    }
}
