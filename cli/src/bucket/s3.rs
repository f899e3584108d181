//! A bucket that speaks S3.

use super::Bucket;
use super::history::S3History;
use crate::exit::{Exit, Failure};
use crate::settings::Settings;
use likeness_proto::Secret;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// Which bucket, where, and as whom.
#[derive(Clone, Debug)]
pub struct S3 {
    bucket: String,
    /// What all keys begin with; may be empty.
    prefix: String,
    endpoint: Option<String>,
    region: String,
    /// Id and secret of an access key; none: as the environment of AWS says.
    key: Option<(String, Secret)>,
}

const CONNECT: Duration = Duration::from_secs(5);
/// A request with its whole body.
const REQUEST: Duration = Duration::from_secs(60);
/// What fails is tried again, at random distances that grow, this often and this long; then it is the caller's to decide.
const RETRIES: usize = 8;
const PATIENCE: Duration = Duration::from_secs(40);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl S3 {
    /// `BUCKET` or `BUCKET/PREFIX`, with what else the settings say.
    pub(super) fn named(name: &str, settings: &Settings) -> Self {
        let (bucket, prefix) = name.split_once('/').unwrap_or((name, ""));
        Self {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            endpoint: settings.bucket_endpoint.clone(),
            region: settings.bucket_region.clone(),
            key: settings.bucket_key.clone(),
        }
    }

    /// Opens it. Nothing is asked of the bucket yet.
    pub(super) fn open(&self) -> Result<Bucket, Failure> {
        crate::tls::install_provider();
        let waits = BackoffConfig { init_backoff: FIRST_WAIT, max_backoff: LONGEST_WAIT, base: 2.0 };
        let retry = RetryConfig { backoff: waits, max_retries: RETRIES, retry_timeout: PATIENCE };
        // Credentials that are not set here come from the variables, files and services of AWS.
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_client_options(ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(REQUEST))
            .with_retry(retry);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some((id, secret)) = &self.key {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
        }
        let s3 = builder.build().map_err(|error| {
            Failure::new(Exit::Setting, format!("the bucket s3://{} cannot be opened: {error}", self.bucket))
        })?;
        let prefix = Path::from(self.prefix.as_str());
        let http = reqwest::Client::builder().connect_timeout(CONNECT).timeout(REQUEST).build();
        let http = http.map_err(Failure::unexpected)?;
        let history = Arc::new(S3History { s3: s3.clone(), prefix: prefix.clone(), http });
        let store = Arc::new(PrefixStore::new(s3, prefix));
        Ok(Bucket { store: store.clone(), links: Some(store), history: Some(history) })
    }
}
