//! Memory of this process and of its machine, as Linux tells it; nothing elsewhere.

use std::fs;
use std::path::Path;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The most that this process had resident at once, bytes.
#[must_use]
pub fn peak() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// What this process has resident, bytes.
#[must_use]
pub fn resident() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// What of that is nobody else's, bytes: without the pages of files, which the system can take back and counts as free.
#[must_use]
pub fn own() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "RssAnon:")
}

/// What this process could have, bytes: its own and what is free, within the limits of its control groups.
#[must_use]
pub fn within_reach() -> Option<u64> {
    let free = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| limit(&fs::read_to_string(file).ok()?));
    limits.chain([free + own()?]).min()
}

/// `name` of a file of lines like `VmHWM:  3072 kB`, bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kib)
}

/// The files that may hold a limit, by `/proc/self/cgroup`: of its group, of those above, in both versions. Within a container
/// the group is often mounted as the root.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers.split(',').any(|controller| controller == "memory") {
            true => (format!("{CGROUPS}/memory"), "memory.limit_in_bytes"),
            false if controllers.is_empty() => (CGROUPS.to_owned(), "memory.max"),
            false => continue,
        };
        let above = Path::new(group).ancestors().map(|group| group.display().to_string());
        files.extend(above.map(|group| format!("{mount}{}/{file}", group.trim_end_matches('/'))));
    }
    files
}

/// A limit in bytes, unless it says `max`.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_in_bytes() {
        let status = "Name:\tlikeness\nVmPeak:\t  999999 kB\nVmHWM:\t    3072 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((field(status, "VmHWM:"), field(status, "VmRSS:")), (Some(3 << 20), Some(1 << 20)));
        assert_eq!(field("Name:\tlikeness\n", "VmHWM:"), None);
    }

    #[test]
    fn limits_are_looked_for_in_the_group_and_above_it() {
        let second =
            ["/sys/fs/cgroup/pod/one/memory.max", "/sys/fs/cgroup/pod/memory.max", "/sys/fs/cgroup/memory.max"];
        assert_eq!(limit_files("0::/pod/one\n"), second);
        let first = ["/sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        assert_eq!(limit_files("5:cpu:/pod\n4:memory:/pod\n"), first);
        assert_eq!((limit("max\n"), limit("1048576\n")), (None, Some(1 << 20)));
    }

    #[test]
    fn this_process_has_less_than_it_could_have() {
        let told = (own(), resident(), peak(), within_reach());
        if let (Some(own), Some(resident), Some(peak), Some(reach)) = told {
            assert!(0 < own && own <= resident && resident <= peak && own <= reach, "{told:?}");
        }
        assert_eq!(told.3.is_some(), cfg!(target_os = "linux"));
    }
}
