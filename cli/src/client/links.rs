//! Objects that come straight from the bucket, by links that the coordinator signs.

use likeness_proto::{ObjectRef, v1};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// Without a byte for this long, a download has stalled.
const SILENCE: Duration = Duration::from_secs(10);

/// Follows links. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(std::sync::OnceLock<Option<reqwest::Client>>);

impl Links {
    /// What lies behind a link, unverified, at most as long as the object. `None` when there is no link or it cannot be followed from
    /// here: the coordinator has the bytes too.
    pub(super) async fn get(&self, link: &v1::DownloadLink, object: &ObjectRef) -> Option<Vec<u8>> {
        if link.url.is_empty() {
            return None;
        }
        match self.follow(&link.url, object.size).await {
            Ok(bytes) => bytes,
            Err(error) => {
                // The URL is a credential for as long as it lives.
                let error = error.without_url();
                tracing::debug!(%error, key = %object.key, "link not followed, the coordinator is asked");
                None
            }
        }
    }

    async fn follow(&self, url: &str, size: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
        let Some(client) = self.0.get_or_init(client) else { return Ok(None) };
        let mut answer = client.get(url).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > size {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }
}

/// `None` when the platform gives no client: the coordinator is asked for everything then.
fn client() -> Option<reqwest::Client> {
    crate::tls::install_provider();
    let client = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE);
    client.redirect(reqwest::redirect::Policy::none()).build().ok()
}
