//! What an S3 bucket keeps beside its objects: older versions, marks of deletions, uploads in parts that were not completed. object_store has
//! no calls for them, but signs requests of any kind.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use likeness_coordinator::{History, Relic, RelicKind};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer, Url};
use object_store::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The history of a prefix of a bucket.
#[derive(Clone, Debug)]
pub(super) struct S3History {
    pub(super) s3: AmazonS3,
    /// What all keys begin with, and what no key of ours holds.
    pub(super) prefix: Path,
    pub(super) http: reqwest::Client,
}

/// A signed request is sent at once; but the bucket's clock may be ahead of ours, by what S3 bears with in other requests too.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);
/// Times that a request is tried, and how long after the first failure; then twice as long each time.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Parameters of a request.
type Query = Vec<(&'static str, String)>;

impl History for S3History {
    fn kept(&self, under: &Path) -> BoxStream<'static, Result<Relic>> {
        let under = self.prefix.parts().chain(under.parts()).collect::<Path>();
        let (versions, uploads) = (self.clone(), self.clone());
        let of_versions = versions.pages(Listing::versions(&under));
        of_versions.chain(uploads.pages(Listing::uploads(&under))).boxed()
    }

    fn erase<'a>(&'a self, relic: &'a Relic) -> BoxFuture<'a, Result<()>> {
        let path = self.prefix.parts().chain(relic.path.parts()).collect::<Path>();
        let query = match &relic.kind {
            RelicKind::Version(id) => vec![("versionId", id.clone())],
            RelicKind::Upload(id) => vec![("uploadId", id.clone())],
        };
        Box::pin(async move { self.ask(Method::DELETE, &path, &query).await.map(drop) })
    }
}

/// A listing that comes in pages.
#[derive(Clone, Debug)]
struct Listing {
    kind: &'static str,
    under: String,
    /// Where the next page begins.
    markers: Query,
}

impl Listing {
    fn versions(under: &Path) -> Self {
        Self { kind: "versions", under: format!("{under}/"), markers: Query::new() }
    }

    fn uploads(under: &Path) -> Self {
        Self { kind: "uploads", under: format!("{under}/"), markers: Query::new() }
    }

    fn query(&self) -> Query {
        let mut query = vec![(self.kind, String::new()), ("prefix", self.under.clone())];
        query.extend(self.markers.iter().cloned());
        query
    }
}

impl S3History {
    fn pages(self, first: Listing) -> BoxStream<'static, Result<Relic>> {
        let pages = futures::stream::try_unfold(Some(first), move |listing| {
            let history = self.clone();
            async move {
                let Some(listing) = listing else { return Ok(None) };
                let (relics, next) = history.page(&listing).await?;
                Ok::<_, Error>(Some((futures::stream::iter(relics.into_iter().map(Ok)), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// A page of a listing, and the listing from there on.
    async fn page(&self, listing: &Listing) -> Result<(Vec<Relic>, Option<Listing>)> {
        if listing.kind == "versions" && listing.markers.is_empty() && !self.keeps_versions().await? {
            return Ok((Vec::new(), None));
        }
        let answer = match self.read(&listing.query()).await {
            // A server that cannot list such a thing keeps none.
            Err(Error::NotImplemented { .. }) => Kept::default(),
            answer => answer?,
        };
        let next = answer.next(listing);
        let relics = answer.relics().filter_map(|(key, kind, size)| {
            let path = key.strip_prefix(self.prefix.as_ref())?.trim_start_matches('/').to_owned();
            Some(Relic { path: Path::from(path), kind, size })
        });
        Ok((relics.collect(), next))
    }

    /// Whether the bucket keeps versions, or did once. One that cannot be asked does not.
    async fn keeps_versions(&self) -> Result<bool> {
        match self.read::<Versioning>(&[("versioning", String::new())]).await {
            Ok(versioning) => Ok(versioning.status.is_some()),
            Err(Error::NotImplemented { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read<T: DeserializeOwned>(&self, query: &[(&'static str, String)]) -> Result<T> {
        let text = self.ask(Method::GET, &Path::default(), query).await?;
        quick_xml::de::from_str(&text).map_err(|error| fault(format!("the answer cannot be read ({error}): {text}")))
    }

    /// Sends a request until it is answered, and returns the answer's text.
    async fn ask(&self, method: Method, path: &Path, query: &[(&'static str, String)]) -> Result<String> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            if let Answer::Final(text) = self.ask_once(&method, path, query).await? {
                return Ok(text);
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        match self.ask_once(&method, path, query).await? {
            Answer::Final(text) => Ok(text),
            Answer::Passing(problem) => Err(fault(problem)),
        }
    }

    async fn ask_once(&self, method: &Method, path: &Path, query: &[(&'static str, String)]) -> Result<Answer> {
        let options = SignedUrlOptions::new().with_query(query.iter().map(|(name, value)| (*name, value.as_str())));
        let url = self.s3.signed_url_opts(method.clone(), path, SIGNED_FOR, &options).await?;
        let (status, text) = match self.send(method, url).await {
            Ok(answer) => answer,
            // Its URL would show the signature.
            Err(error) => return Ok(Answer::Passing(error.without_url().to_string())),
        };
        let is_gone = *method == Method::DELETE && status == 404;
        match status.as_u16() {
            _ if status.is_success() || is_gone => Ok(Answer::Final(text)),
            405 | 501 => {
                let operation = query.first().map_or("", |(name, _)| *name).to_owned();
                Err(Error::NotImplemented { operation, implementer: "the S3 server".to_owned() })
            }
            429 | 500.. => Ok(Answer::Passing(format!("{method} {path} failed with {status}: {text}"))),
            _ => Err(fault(format!("{method} {path} was refused with {status}: {text}"))),
        }
    }

    async fn send(&self, method: &Method, url: Url) -> reqwest::Result<(reqwest::StatusCode, String)> {
        let answer = self.http.request(method.clone(), url).send().await?;
        Ok((answer.status(), answer.text().await?))
    }
}

enum Answer {
    /// What the server says.
    Final(String),
    /// What may pass, when the server is asked again.
    Passing(String),
}

fn fault(text: String) -> Error {
    Error::Generic { store: "S3", source: text.into() }
}

#[derive(Debug, Deserialize)]
struct Versioning {
    #[serde(rename = "Status")]
    status: Option<String>,
}

/// `ListVersionsResult` and `ListMultipartUploadsResult`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Kept {
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_version_id_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    version: Vec<Version>,
    delete_marker: Vec<Version>,
    upload: Vec<Upload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    key: String,
    version_id: String,
    #[serde(default)]
    size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
}

impl Kept {
    fn relics(self) -> impl Iterator<Item = (String, RelicKind, u64)> {
        let versions = self.version.into_iter().chain(self.delete_marker);
        let versions = versions.map(|version| (version.key, RelicKind::Version(version.version_id), version.size));
        versions.chain(self.upload.into_iter().map(|upload| (upload.key, RelicKind::Upload(upload.upload_id), 0)))
    }

    fn next(&self, listing: &Listing) -> Option<Listing> {
        let markers = [
            ("key-marker", &self.next_key_marker),
            ("version-id-marker", &self.next_version_id_marker),
            ("upload-id-marker", &self.next_upload_id_marker),
        ];
        let given = |(name, value): (&'static str, &Option<String>)| {
            Some((name, value.clone().filter(|value| !value.is_empty())?))
        };
        let markers: Query = markers.into_iter().filter_map(given).collect();
        (self.is_truncated && !markers.is_empty()).then(|| Listing { markers, ..listing.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_versions_and_marks_in_any_order_and_where_the_next_begins() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
            <ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><Prefix>p/</Prefix>
            <NextKeyMarker>p/b</NextKeyMarker><NextVersionIdMarker>4</NextVersionIdMarker><IsTruncated>true</IsTruncated>
            <Version><Key>p/a</Key><VersionId>1</VersionId><Size>7</Size><ETag>&#34;e&#34;</ETag></Version>
            <DeleteMarker><Key>p/a</Key><VersionId>2</VersionId><IsLatest>true</IsLatest></DeleteMarker>
            <Version><Key>p/b</Key><VersionId>null</VersionId><Size>9</Size></Version></ListVersionsResult>";
        let kept: Kept = quick_xml::de::from_str(text).unwrap();
        let next = kept.next(&Listing::versions(&Path::from("p"))).unwrap();
        let query = [("versions", ""), ("prefix", "p/"), ("key-marker", "p/b"), ("version-id-marker", "4")];
        assert_eq!(next.query(), query.map(|(name, value)| (name, value.to_owned())));
        let version = |key: &str, id: &str, size| (key.to_owned(), RelicKind::Version(id.to_owned()), size);
        let relics: Vec<_> = kept.relics().collect();
        assert_eq!(relics, [version("p/a", "1", 7), version("p/b", "null", 9), version("p/a", "2", 0)]);
    }

    #[test]
    fn the_last_page_has_none_after_it() {
        let text = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><KeyMarker></KeyMarker>
            <NextKeyMarker></NextKeyMarker><Upload><Key>p/a</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>";
        let kept: Kept = quick_xml::de::from_str(text).unwrap();
        assert!(kept.next(&Listing::uploads(&Path::from("p"))).is_none());
        assert_eq!(kept.relics().collect::<Vec<_>>(), [("p/a".to_owned(), RelicKind::Upload("u".to_owned()), 0)]);
    }

    #[test]
    fn a_bucket_that_keeps_versions_says_so() {
        let status = |text| quick_xml::de::from_str::<Versioning>(text).unwrap().status;
        assert_eq!(status("<VersioningConfiguration></VersioningConfiguration>"), None);
        let kept = status("<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>");
        assert_eq!(kept.as_deref(), Some("Suspended"));
    }
}
