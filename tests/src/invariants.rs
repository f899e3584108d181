//! What must hold whatever has happened, for real processes. The simulation holds the scheduler to the same, in
//! `coordinator/src/simulation/invariants.rs`.

use std::collections::{BTreeMap, BTreeSet};

use likeness_proto::v1::DownloadRequest;
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::{Bearer, ObjectKey, Secret, Sha256, lease_of};
use serde_json::Value;
use tonic::Code;
use tonic::transport::Endpoint;

/// Objects by key.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// A job as `show --json` has it, what lies in the bucket, and whom to ask what is visible.
pub struct Invariants<'a> {
    /// The job.
    pub job: &'a Value,
    /// All jobs, as `list --json` has them.
    pub jobs: &'a Value,
    /// All that lies in the bucket.
    pub contents: &'a Contents,
    /// A coordinator, and a token of the tenant.
    pub server: (&'a str, &'a str),
}

impl Invariants<'_> {
    /// Asserts all of them of a job that was to draw `avatars` of each subject.
    #[track_caller]
    pub fn hold(&self, avatars: u64) {
        assert_eq!(self.job["state"], "succeeded", "an accepted job ends: {:#}", self.job);
        for subject in self.job["subjects"].as_array().expect("subjects") {
            self.no_avatar_is_lost_or_duplicated(subject, avatars);
            let avatars = subject["avatars"].as_array().expect("avatars").iter().map(|avatar| &avatar["object"]);
            let objects: Vec<_> = avatars.chain([&subject["embedding"]["object"], &subject["contact_sheet"]]).collect();
            self.no_result_is_applied_twice(&objects);
            objects.iter().for_each(|object| self.is_there_and_whole(object));
        }
        self.nothing_is_visible_without_its_commit();
    }

    #[track_caller]
    fn no_avatar_is_lost_or_duplicated(&self, subject: &Value, avatars: u64) {
        let indices: Vec<_> =
            subject["avatars"].as_array().expect("avatars").iter().map(|avatar| &avatar["index"]).collect();
        let indices: Vec<u64> = indices.into_iter().filter_map(Value::as_u64).collect();
        assert_eq!(indices, (0..avatars).collect::<Vec<_>>(), "each avatar once: {subject:#}");
    }

    /// What one task made was made under one fence.
    #[track_caller]
    fn no_result_is_applied_twice(&self, objects: &[&Value]) {
        let mut fences = BTreeMap::new();
        for key in objects.iter().map(|object| key_of(object)) {
            let lease = lease_of(&key).expect("an output of a lease");
            let fence = *fences.entry(lease.task).or_insert(lease.fence);
            assert_eq!(fence, lease.fence, "{key}: a result of two leases");
        }
    }

    #[track_caller]
    fn is_there_and_whole(&self, object: &Value) {
        let key = key_of(object).to_string();
        let bytes = self.contents.get(&key).unwrap_or_else(|| panic!("{key} is visible and not in the bucket"));
        assert_eq!(object["sha256"], Sha256::of(bytes).to_string(), "{key} holds other bytes than committed");
    }

    /// Whatever lies in the bucket and no job names cannot be had.
    #[track_caller]
    fn nothing_is_visible_without_its_commit(&self) {
        let mut committed = BTreeSet::new();
        collect_keys(self.jobs, &mut committed);
        for key in self.contents.keys().filter(|key| !committed.contains(key.as_str())) {
            let is_output = key.parse::<ObjectKey>().is_ok_and(|key| lease_of(&key).is_some());
            assert!(
                !is_output || !is_visible(self.server, key),
                "{key} is visible, and nothing says that it was committed"
            );
        }
    }
}

/// The keys of all objects that are named anywhere.
fn collect_keys<'a>(value: &'a Value, keys: &mut BTreeSet<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect_keys(value, keys)),
        Value::Object(fields) => {
            keys.extend(fields.get("key").and_then(Value::as_str));
            fields.values().for_each(|value| collect_keys(value, keys));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn key_of(object: &Value) -> ObjectKey {
    object["key"].as_str().unwrap_or_else(|| panic!("{object} is no object")).parse().expect("a key")
}

/// Whether an object can be downloaded.
///
/// # Panics
/// When the coordinator does not answer.
pub fn is_visible((server, token): (&str, &str), key: &str) -> bool {
    let bearer = Bearer::new(&Secret::new(token).expect("a token"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel = Endpoint::from_shared(server.to_owned()).expect("a URL").connect_lazy();
        let ask = DownloadRequest { key: key.to_owned() };
        match AvatarsClient::with_interceptor(channel, bearer).download(ask).await {
            Ok(_) => true,
            Err(status) if status.code() == Code::NotFound => false,
            Err(status) => panic!("{key}: {status}"),
        }
    })
}
