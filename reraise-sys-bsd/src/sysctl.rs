//! sysctl(3): the numbers of the kernel, by name.

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
use std::ffi::CStr;
use std::ffi::c_int;
use std::io;
use std::ptr;

/// Beyond this an answer is no list of processes and no environment.
const LIMIT: usize = 1 << 26;

/// Fills `into` from the variable; how many bytes there were.
///
/// # Errors
/// As `sysctl(3)`; `ENOMEM` when there is more than fits.
pub fn read(name: &[c_int], into: &mut [u8]) -> io::Result<usize> {
    let mut length = into.len();
    // SAFETY: the name and the buffer are live and as long as is said; the
    // kernel only reads the name, and writes nothing where none is given.
    let answer = unsafe {
        libc::sysctl(
            name.as_ptr().cast_mut(),
            name.len() as _,
            into.as_mut_ptr().cast(),
            &raw mut length,
            ptr::null_mut(),
            0,
        )
    };
    if answer == 0 { Ok(length) } else { Err(io::Error::last_os_error()) }
}

/// The whole of a variable that can grow while it is read.
///
/// # Errors
/// As `sysctl(3)`.
pub fn read_all(name: &[c_int]) -> io::Result<Vec<u8>> {
    let mut size = 0;
    // SAFETY: without a buffer the kernel only says how large one must be.
    let answer = unsafe {
        libc::sysctl(
            name.as_ptr().cast_mut(),
            name.len() as _,
            ptr::null_mut(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // Processes are born in the meantime, and some variables do not tell.
    let mut size = (size + size / 8).max(1 << 16);
    loop {
        let mut buffer = vec![0; size];
        match read(name, &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) && size < LIMIT => size *= 2,
            Err(e) => return Err(e),
        }
    }
}

/// Fills `into` from the variable with this name; how many bytes there were.
///
/// # Errors
/// As `sysctlbyname(3)`; `ENOENT` when this kernel does not have it.
#[cfg(any(target_os = "freebsd", target_os = "macos"))]
pub fn read_named(name: &CStr, into: &mut [u8]) -> io::Result<usize> {
    let mut length = into.len();
    // SAFETY: as in `read`; the name ends with a zero.
    let answer = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            into.as_mut_ptr().cast(),
            &raw mut length,
            ptr::null_mut(),
            0,
        )
    };
    if answer == 0 { Ok(length) } else { Err(io::Error::last_os_error()) }
}
