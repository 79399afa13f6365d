//! Which ports the processes of a group listen on, from `/proc`.
//!
//! Used only while a replica is not ready, to tell the user what the app did instead of listening
//! on `$PORT`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Entries of `/proc` that are looked at; beyond, the answer may be incomplete.
const MAX_PROCESSES: usize = 20_000;

/// Descriptors of one process that are looked at.
const MAX_DESCRIPTORS: usize = 4_096;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The TCP ports that processes of the group listen on, in order.
pub fn ports_of_group(group: i32) -> BTreeSet<u16> {
    let inodes = inodes_of_group(Path::new("/proc"), group);
    if inodes.is_empty() {
        return BTreeSet::new();
    }
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening(&table, &inodes))
        .collect()
}

/// The ports of a table whose sockets listen and are among `inodes`.
fn listening(table: &str, inodes: &BTreeSet<u64>) -> Vec<u16> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            if *state != LISTEN || !inodes.contains(&inode.parse().ok()?) {
                return None;
            }
            let (_, port) = local.rsplit_once(':')?;
            u16::from_str_radix(port, 16).ok()
        })
        .collect()
}

fn inodes_of_group(proc: &Path, group: i32) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(proc) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .take(MAX_PROCESSES)
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .map(|entry| entry.path())
        .filter(|path| {
            fs::read_to_string(path.join("stat"))
                .is_ok_and(|stat| group_of_stat(&stat) == Some(group))
        })
        .flat_map(|path| sockets(&path.join("fd")))
        .collect()
}

/// The group in a process's `stat`: the fifth field, counted behind the name in parentheses, which
/// may itself hold blanks and parentheses.
fn group_of_stat(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(2)?.parse().ok()
}

fn sockets(descriptors: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(descriptors) else {
        return Vec::new();
    };
    entries
        .flatten()
        .take(MAX_DESCRIPTORS)
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| {
            target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn names_with_blanks_and_parentheses_are_read_past() {
        assert_eq!(group_of_stat("12 (a) b (c) S 1 34 5 6"), Some(34));
        assert_eq!(group_of_stat("12 (sh"), None);
    }

    #[test]
    fn only_listening_sockets_of_the_group_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n\
             1: 0100007F:1F91 00000000:0000 01 00000000:00000000 00:00000000 00000000 0 0 112 1\n\
             2: 0100007F:1F92 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 113 1\n";
        assert_eq!(listening(table, &BTreeSet::from([111, 112])), [8080]);
    }

    #[test]
    fn this_very_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert!(ports_of_group(group).contains(&port));
    }
}
