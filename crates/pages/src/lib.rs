//! Gives back memory that holds program text which ran once, and memory that was freed.
//!
//! Most of what an idle proxy holds is pages of the program itself: the command line, the validation of
//! objects, the translation run when there is a configuration to take over, and the kernel maps 64 KiB
//! around each page that they touch. Once they have run, their pages can go; what is needed again comes
//! back from the page cache with its next use.
//!
//! What the work on a configuration has freed is kept by the allocator for the thread that freed it, page by
//! page; a thread that then waits keeps it for good.
//!
//! This takes the two unsafe calls of the project. One is to the allocator, which may be told at any time to
//! look what it can do without. The other is `madvise(MADV_DONTNEED)`. It is sound for the mappings
//! that are chosen here: they are of the program's own file, cannot be written to, and have no page that
//! differs from the file (what the loader relocates is in others), so that dropping their pages changes
//! nothing that can be read. No safe interface of the kernel does the same.

use std::io;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// A mapping of `/proc/self/smaps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    /// Such as `r-xp`.
    mode: &'a str,
    /// Device and inode.
    file: (&'a str, &'a str),
    /// In kB.
    resident: usize,
    /// In kB, what differs from the file in memory; `None`: not known.
    anonymous: Option<usize>,
    /// The same, where it is swapped out.
    swapped: Option<usize>,
}

/// Drops the pages of the program's own text and constants from this process. Those that are still needed
/// come back when they are used, each with its neighbours, at the cost of a minor fault. Tells how many
/// bytes were dropped.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read or the kernel refuses.
pub fn give_back() -> io::Result<usize> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mappings = mappings(&smaps);
    let mut dropped = 0;
    for mapping in unchanged(&mappings, give_back as *const () as usize) {
        let Some(start) = NonNull::new(mapping.start as *mut std::ffi::c_void) else { continue };
        #[expect(unsafe_code, reason = "read-only, private, of a file, and no page differs from the file")]
        // SAFETY: The range is a whole mapping of this process, private, not writable, and all of its pages are
        // the file's own. The kernel may drop such pages at any time, when memory is short, and reads them
        // from the file when they are used again: this makes nothing possible that is not without it.
        unsafe { madvise(start, mapping.end - mapping.start, MmapAdvise::MADV_DONTNEED) }?;
        dropped += mapping.resident * 1024;
    }
    Ok(dropped)
}

/// Gives back what this thread has freed. It costs a look at each page of its heap: for a thread that has
/// freed much and goes to wait.
pub fn give_back_freed() {
    #[expect(unsafe_code, reason = "a call to C without pointers")]
    // SAFETY: The function takes no pointer, may be called from any thread at any time, and frees nothing
    // that is in use.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// The read-only mappings of the file that the code at that address is from, of which no page differs from
/// the file.
fn unchanged<'a>(mappings: &'a [Mapping<'a>], code: usize) -> impl Iterator<Item = &'a Mapping<'a>> {
    let own = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&code));
    let file = own.map(|mapping| mapping.file);
    mappings
        .iter()
        .filter(move |m| Some(m.file) == file && m.file.1 != "0" && matches!(m.mode, "r-xp" | "r--p"))
        .filter(|m| m.anonymous == Some(0) && m.swapped == Some(0))
}

/// Reads `/proc/PID/smaps`: a line for each mapping (`start-end mode offset device inode path`), and one for
/// each of its figures (`Name: N kB`).
fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(name) = first.strip_suffix(':') {
            let (Some(mapping), value) = (mappings.last_mut(), words.next()) else { continue };
            let value = value.and_then(|value| value.parse().ok());
            match name {
                "Rss" => mapping.resident = value.unwrap_or_default(),
                // Not those that are dirty: so are all of a file that has not yet been written to its disk.
                "Anonymous" => mapping.anonymous = value,
                "Swap" => mapping.swapped = value,
                _ => {}
            }
        } else if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            let mode = words.next().unwrap_or_default();
            let file = (words.nth(1).unwrap_or_default(), words.next().unwrap_or_default());
            mappings.push(Mapping { start, end, mode, file, resident: 0, anonymous: None, swapped: None });
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55c2d00b1000-55c2d09c4000 r--p 00000000 fe:00 10018836                   /usr/bin/portway
Size:               9292 kB
Rss:                4000 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
55c2d09c4000-55c2d1996000 r-xp 00912000 fe:00 10018836                   /usr/bin/portway
Rss:                8000 kB
Private_Dirty:      8000 kB
Anonymous:             0 kB
Swap:                  0 kB
55c2d1996000-55c2d1a00000 r--p 018e3000 fe:00 10018836                   /usr/bin/portway
Rss:                 424 kB
Private_Dirty:       424 kB
Anonymous:           424 kB
55c2d1a00000-55c2d1a10000 rw-p 0194d000 fe:00 10018836                   /usr/bin/portway
Rss:                  64 kB
Private_Dirty:         0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 77                         /usr/lib/libc.so.6
Rss:                1000 kB
7f0000200000-7f0000300000 r--p 00000000 00:00 0
Rss:                 100 kB
";

    #[test]
    fn only_what_is_the_programs_own_and_as_in_its_file_is_dropped() {
        let mappings = mappings(SMAPS);
        assert_eq!(mappings.len(), 6);
        let dropped: Vec<_> = unchanged(&mappings, 0x55c2_d09c_5000).map(|m| m.resident).collect();
        assert_eq!(dropped, [4000, 8000]);
        assert_eq!(unchanged(&mappings, 0).count(), 0);
        // What is not told is not taken for granted.
        let untold = SMAPS.replacen("Swap:                  0 kB\n", "", 1);
        let mappings = super::mappings(&untold);
        let dropped: Vec<_> = unchanged(&mappings, 0x55c2_d09c_5000).map(|m| m.resident).collect();
        assert_eq!(dropped, [8000]);
    }

    /// Constants of which each page is looked at once.
    static CONSTANTS: [u8; 4 << 20] = [1; 4 << 20];

    #[test]
    fn what_ran_once_is_dropped_and_comes_back_when_it_is_needed() {
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let all = mappings(&smaps);
            unchanged(&all, give_back as *const () as usize).map(|m| m.resident * 1024).sum::<usize>()
        };
        let sum = || std::hint::black_box(&CONSTANTS).iter().map(|byte| usize::from(*byte)).sum::<usize>();
        assert_eq!(sum(), CONSTANTS.len());
        let before = resident();
        assert!(give_back().unwrap() >= CONSTANTS.len());
        assert!(resident() + CONSTANTS.len() / 2 < before);
        assert_eq!(sum(), CONSTANTS.len());
    }
}
