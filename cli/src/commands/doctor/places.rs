//! What a process has to reach: the bucket, the store, and their clocks.

use super::Finding;
use crate::bucket::{Address, Bucket};
use crate::settings::Settings;
use crate::state_dir::StateDir;
use futures::TryStreamExt;
use likeness_coordinator::{StoreAddress, look};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// How long a place may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is written to the bucket and removed again; always the same, so that what is left of one that died goes with the next.
const PROBE: &str = "probe/doctor";
/// Clocks may differ by this much: tokens of people, which have a grace of 30 s, are refused beyond.
const TOLERANCE_MS: i64 = 30_000;

/// How far this machine's clock is ahead of a place's.
pub(super) struct Ahead {
    of: &'static str,
    ms: i64,
}

impl Ahead {
    /// `theirs`: what the other clock said just now, milliseconds since the Unix epoch.
    fn of(of: &'static str, theirs: i64) -> Self {
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        Self { of, ms: ours - theirs }
    }
}

/// Writes, reads and removes an object, as coordinators and workers do.
pub(super) async fn bucket(settings: &Settings) -> (Finding, Option<Ahead>) {
    let address = match Address::of(settings, &StateDir::at(&settings.state)) {
        Ok(address) => address,
        Err(failure) => return (Err(failure.message), None),
    };
    let place = match &address {
        Address::Folder(folder) if !folder.exists() => return (to_be_made(folder), None),
        Address::Folder(folder) => folder.display().to_string(),
        Address::S3(_) => {
            let url = settings.bucket.as_deref().unwrap_or_default();
            settings
                .bucket_endpoint
                .as_deref()
                .map_or_else(|| url.to_owned(), |endpoint| format!("{url} at {endpoint}"))
        }
    };
    let advice = "look at bucket, bucket_endpoint and the access key, whether the bucket exists, and whether this key may write to it";
    let began = Instant::now();
    match timeout(PATIENCE, probe(&address)).await {
        Ok(Ok(clock)) => {
            (Ok(format!("{place} was written, read and cleaned in {} ms", began.elapsed().as_millis())), clock)
        }
        Ok(Err(why)) => (Err(format!("{place} cannot be used: {why}; {advice}")), None),
        Err(_) => (Err(format!("{place} does not answer within {} s; {advice}", PATIENCE.as_secs())), None),
    }
}

async fn probe(address: &Address) -> Result<Option<Ahead>, String> {
    let Bucket { store, history, .. } = address.open().map_err(|failure| failure.message)?;
    let (key, bytes) = (Key::from(PROBE), "probe".as_bytes());
    let probed = async {
        store.put(&key, PutPayload::from_static(bytes)).await?;
        let got = store.get(&key).await?;
        let clock = Ahead::of("bucket", got.meta.last_modified.timestamp_millis());
        let whole = got.bytes().await? == bytes;
        store.delete(&key).await?;
        if let Some(history) = &history {
            let kept: Vec<_> = history.kept(&key).try_collect().await?;
            for relic in kept.iter().filter(|relic| relic.path == key) {
                history.erase(relic).await?;
            }
        }
        object_store::Result::Ok((whole, clock))
    };
    match probed.await.map_err(|error: object_store::Error| error.to_string())? {
        (false, _) => Err("it gave back something else than was written".to_owned()),
        // The clock of a folder is this machine's.
        (true, clock) => Ok(matches!(address, Address::S3(_)).then_some(clock)),
    }
}

/// Asks the store, without making or changing anything there.
pub(super) async fn store(settings: &Settings) -> (Finding, Option<Ahead>) {
    let file = StateDir::at(&settings.state).store();
    let address = settings.store.clone().unwrap_or(StoreAddress::Sqlite(file));
    if let StoreAddress::Sqlite(file) = &address
        && !file.exists()
    {
        return (to_be_made(file), None);
    }
    match timeout(PATIENCE, look(&address)).await {
        Err(_) => {
            let why = format!(
                "{address} does not answer within {} s; look at store, and at the network to it",
                PATIENCE.as_secs()
            );
            (Err(why), None)
        }
        Ok(Err(error)) => (Err(error.to_string()), None),
        Ok(Ok(found)) => {
            let tables = match found.migration {
                Some(version) if version == found.known => format!("has migration {version}, the newest"),
                Some(version) => {
                    format!("has migration {version} and gets {} from a coordinator of this release", found.known)
                }
                None => "is empty; a coordinator makes its tables".to_owned(),
            };
            (Ok(format!("{address} {tables}")), found.clock.map(|clock| Ahead::of("store", clock)))
        }
    }
}

/// A place that a coordinator makes: whether it could.
fn to_be_made(place: &Path) -> Finding {
    let Some(above) = place.ancestors().skip(1).find(|folder| folder.exists()) else {
        return Err(format!("{} can never be made; name an absolute path", place.display()));
    };
    match tempfile::tempfile_in(above) {
        Ok(_) => Ok(format!("{} is not there yet; a coordinator makes it", place.display())),
        Err(error) => Err(format!(
            "{} cannot be made: {error}; make {} writable, or name another place",
            place.display(),
            above.display()
        )),
    }
}

pub(super) fn clock(places: [Option<Ahead>; 2]) -> Finding {
    let places: Vec<_> = places.into_iter().flatten().collect();
    let told = |place: &Ahead| {
        let side = if place.ms < 0 { "behind" } else { "ahead of" };
        format!("{:.1} s {side} the {}'s", place.ms.abs() as f64 / 1000.0, place.of)
    };
    let all = places.iter().map(told).collect::<Vec<_>>().join(", ");
    match places.iter().find(|place| place.ms.abs() > TOLERANCE_MS) {
        Some(_) => Err(format!(
            "this clock is {all}; have it set by NTP (`timedatectl set-ntp true`, `chronyc makestep`): beyond 30 s people's tokens are \
             refused, beyond 15 minutes S3 refuses every request"
        )),
        None if places.is_empty() => {
            Ok("there is no other to compare it with: store and bucket are on this machine, or do not answer"
                .to_owned())
        }
        None => Ok(format!("this clock is {all}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;
    use std::fs;

    fn settings(flags: &[(&'static str, String)]) -> Settings {
        Settings::resolve(&Sources { flags: flags.to_vec(), ..Sources::default() }).unwrap().settings
    }

    #[tokio::test]
    async fn a_bucket_is_written_read_and_left_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let state = ("state", home.path().display().to_string());
        let (yet, _) = bucket(&settings(std::slice::from_ref(&state))).await;
        assert!(yet.unwrap().contains("not there yet") && !home.path().join("bucket").exists());

        fs::create_dir(home.path().join("bucket")).unwrap();
        let (found, clock) = bucket(&settings(&[state])).await;
        assert!(found.unwrap().contains("written, read and cleaned") && clock.is_none());
        let left: Vec<_> = fs::read_dir(home.path().join("bucket/probe")).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_bucket_that_cannot_be_reached_says_what_to_look_at() {
        let folder = tempfile::NamedTempFile::new().unwrap();
        let (found, _) = bucket(&settings(&[("bucket", format!("file://{}", folder.path().display()))])).await;
        let why = found.unwrap_err();
        assert!(why.contains("look at bucket, bucket_endpoint"), "{why}");
    }

    #[tokio::test]
    async fn a_store_that_is_none_is_told_from_one_that_is_not_there_yet() {
        let home = tempfile::tempdir().unwrap();
        let state = ("state", home.path().display().to_string());
        let (yet, clock) = store(&settings(std::slice::from_ref(&state))).await;
        assert!(yet.unwrap().contains("a coordinator makes it") && clock.is_none());
        fs::write(home.path().join("likeness.db"), "no database at all, but long enough to be read as one").unwrap();
        let (found, _) = store(&settings(&[state])).await;
        assert!(found.unwrap_err().contains("restore a backup"));
        let (found, _) = store(&settings(&[("store", "postgres://nobody@127.0.0.1:1/none".to_owned())])).await;
        assert!(found.unwrap_err().contains("postgres://nobody@127.0.0.1:1/none"));
    }

    #[test]
    fn a_place_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let why = to_be_made(&file.path().join("likeness.db")).unwrap_err();
        assert!(why.contains("writable, or name another place"), "{why}");
    }

    #[test]
    fn a_clock_that_is_wrong_is_told_by_how_much() {
        let ahead = |of, ms| Some(Ahead { of, ms });
        assert!(clock([None, None]).unwrap().contains("no other"));
        assert!(clock([ahead("store", 400), ahead("bucket", -29_000)]).unwrap().contains("29.0 s behind the bucket's"));
        let why = clock([ahead("store", 301_000), None]).unwrap_err();
        assert!(why.contains("301.0 s ahead of the store's") && why.contains("NTP"), "{why}");
    }
}
