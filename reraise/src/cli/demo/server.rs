//! The web server of the demonstration: `reraise demo-server PORT_FILE`.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use reraise::error::{ExitCode, Fault};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);

/// The one page.
pub(crate) fn page(pid: i32) -> String {
    format!("Hello from web, process {pid}\n")
}

/// Serves [`page`] at a port that the system chooses. `PORT PID` goes into the
/// file, which may be a FIFO, once connections are accepted.
pub(crate) fn serve(port_file: &OsStr) -> Result<ExitCode, Fault> {
    let failed = |e: &io::Error| Fault::system("demo-server", "cannot serve", e);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| failed(&e))?;
    let port = listener.local_addr().map_err(|e| failed(&e))?.port();
    let pid = std::process::id().cast_signed();
    // Reading too, or opening a FIFO would wait for somebody who reads.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let told =
        options.open(port_file).and_then(|mut f| f.write_all(format!("{port} {pid}\n").as_bytes()));
    told.map_err(|e| Fault::system("demo-server", "cannot tell its port", &e))?;
    loop {
        let (stream, _) = listener.accept().map_err(|e| failed(&e))?;
        // Somebody who hangs up is no reason to end.
        let _ = answer(stream, &page(pid));
    }
}

fn answer(mut stream: TcpStream, page: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // The request ends in an empty line; a longer one is no request.
    for line in BufReader::new(stream.try_clone()?.take(8192)).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let length = page.len();
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{page}"
    )
}

/// The page at a port of this machine.
pub(crate) fn fetch(port: u16) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(8192).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1.0 200 ") => Ok(page.to_owned()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_served_and_fetched() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || answer(listener.accept().unwrap().0, &page(7)));
        assert_eq!(fetch(port).unwrap(), "Hello from web, process 7\n");
        server.join().unwrap().unwrap();
    }
}
