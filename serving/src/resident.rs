//! Gives back the memory of code that only the start of a program needed.
//!
//! The kernel maps a program's code in pieces of sixteen pages as it is run, and keeps them mapped
//! while memory is plentiful: most of what an idle program of ours occupies parsed its configuration
//! once. Given back, what runs on is mapped again when it is next run, from the kernel's cache of
//! the file.

use std::io;
use std::ops::Range;
use std::time::Duration;

use rustix::mm::{Advice, madvise};

/// After so long, [`forget_start`]; where that is not possible, the code stays where it is. Cancel
/// safe.
pub async fn forget_start_after(started: Duration) {
    tokio::time::sleep(started).await;
    if let Err(error) = forget_start() {
        tracing::debug!(%error, "the code of the start stays in memory");
    }
}

/// Unmaps the pages of this program's code, which come back as they are run; returns how many bytes
/// the code has. For once, when the start is over: what is then called is a few faults slower.
pub fn forget_start() -> io::Result<usize> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for range in code(&maps, &program.to_string_lossy()) {
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        #[expect(unsafe_code, reason = "no safe call does this")]
        // SAFETY: the range is a mapping of this program's file, which may be run and not written.
        // Nothing but the file can be in it, from which its pages are read again. The kernel checks
        // the range; if it is no longer mapped, the call fails.
        unsafe {
            madvise(start, range.len(), Advice::LinuxDontNeed)?;
        }
        bytes += range.len();
    }
    Ok(bytes)
}

/// The mappings of `program` that may be run and have never been written.
fn code<'a>(maps: &'a str, program: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    maps.lines().filter_map(move |line| {
        let mut fields = line.splitn(6, ' ');
        let (range, permissions) = (fields.next()?, fields.next()?);
        let file = fields.nth(3)?.trim_start();
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let range = address(start)?..address(end)?;
        (permissions == "r-xp" && file == program).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_code_is_found() {
        let maps = "\
7f5900200000-7f5900464000 r--p 00000000 fe:00 9978530                    /bin/activator
7f5900464000-7f5900cef000 r-xp 00263000 fe:00 9978530                    /bin/activator
7f5900cef000-7f5900d40000 r--p 00aed000 fe:00 9978530                    /bin/activator
7f5900d40000-7f5900d49000 rw-p 00b3d000 fe:00 9978530                    /bin/activator
7f5901000000-7f5901001000 r-xp 00000000 fe:00 9978531                    /lib/activator
7f5901002000-7f5901003000 rwxp 00000000 fe:00 9978530                    /bin/activator
7fffec800000-7fffec821000 rw-p 00000000 00:00 0                          [stack]
7fffec9f4000-7fffec9f6000 r-xp 00000000 00:00 0                          [vdso]
nonsense
zz-7f r-xp 00000000 fe:00 9978530 /bin/activator
";
        let mut found = code(maps, "/bin/activator");
        assert_eq!(found.next(), Some(0x7f59_0046_4000..0x7f59_00ce_f000));
        assert_eq!(found.next(), None);
        assert_eq!(code(maps, "").count(), 0);
    }
}
