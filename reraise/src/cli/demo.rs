//! `reraise demo`: what Reraise promises, shown with two services in a scratch
//! directory, and checked on the way. Nothing of it is left afterwards.

mod server;
mod stage;

use std::time::Instant;

use reraise::error::{ExitCode, Fault};

use super::console;
use stage::{Stage, Web, broken};

pub(crate) use server::serve;

/// Runs `reraise demo`.
pub(crate) fn run() -> Result<ExitCode, Fault> {
    let begun = Instant::now();
    let mut stage = Stage::new()?;
    let shown = story(&mut stage);
    if shown.is_err() {
        stage.tell_messages();
    }
    let cleared = stage.clear();
    shown.and(cleared)?;
    let seconds = begun.elapsed().as_secs_f64();
    console::line(&format!(
        "\nAll of it was as promised, in {seconds:.1} s. For a service of your own:"
    ));
    console::line("  reraise skeleton NAME -- COMMAND");
    Ok(ExitCode::Ok)
}

fn story(stage: &mut Stage) -> Result<(), Fault> {
    let shown = stage.dir().display().to_string();
    console::line(&format!("Two services in {shown}, which is removed at the end:"));
    console::line("  web     a tiny web server");
    console::line("  ticker  a shell script that prints a line each second\n");
    stage.write_services()?;

    stage.command(&["start", "--wait", "*"])?;
    let first = stage.next_web()?;
    show_page(first)?;
    let ticker = stage.service("ticker")?.0;
    stage.command(&["status"])?;

    let second = raise(stage, first)?;
    adopt(stage, second)?;
    stage.command(&["status"])?;
    if stage.service("ticker")?.0 != ticker {
        return Err(broken("ticker is another process, though nobody killed it"));
    }
    end(stage)
}

/// Kills the web server. It must serve again, as another process.
fn raise(stage: &mut Stage, first: Web) -> Result<Web, Fault> {
    let (process, _) = stage.service("web")?;
    if process.pid != first.pid {
        let what = format!("web runs as {}, but its record says {}", first.pid, process.pid);
        return Err(broken(what));
    }
    let begun = stage.kill(process, "the web server falls ...")?;
    let second = stage.next_web()?;
    let taken = begun.elapsed().as_secs_f64() * 1000.0;
    if second.pid == first.pid {
        return Err(broken("web was killed, but the same process serves again"));
    }
    answers(second)?;
    console::line(&format!("  raised in {taken:.1} ms: process {} serves now\n", second.pid));
    stage.until_recorded("its record does not show the new web", |pid, _| pid == second.pid)?;
    Ok(second)
}

/// Kills the worker of the web server, which must not notice.
fn adopt(stage: &mut Stage, web: Web) -> Result<(), Fault> {
    let (process, worker) = stage.service("web")?;
    let begun = stage.kill(worker, "... and then its supervisor, auto-reraise web")?;
    stage.until_recorded("nobody supervises web any more", |_, now| now != worker.pid)?;
    let taken = begun.elapsed().as_secs_f64() * 1000.0;
    let (same, next) = stage.service("web")?;
    if same != process {
        return Err(broken("web was restarted, though only its supervisor was killed"));
    }
    answers(web)?;
    console::line(&format!(
        "  supervised again after {taken:.1} ms, by process {}; web is still process {}\n",
        next.pid, same.pid
    ));
    Ok(())
}

/// Stops everything. Nothing may live on.
fn end(stage: &mut Stage) -> Result<(), Fault> {
    let before = stage.family()?.len();
    stage.command(&["stop", "*"])?;
    let left = stage.until_gone()?;
    if !left.is_empty() {
        return Err(broken(format!("still there after the stop: {left:?}")));
    }
    console::line(&format!("  nothing is left of the {before} processes, supervisors included"));
    Ok(())
}

fn show_page(web: Web) -> Result<(), Fault> {
    console::line(&format!("$ curl http://127.0.0.1:{}/", web.port));
    console::line(&format!("{}\n", answers(web)?));
    Ok(())
}

/// The page, which must come from this very process.
fn answers(web: Web) -> Result<String, Fault> {
    let page = server::fetch(web.port)
        .map_err(|e| Fault::system("demo", "the web server does not answer", &e))?;
    let expected = server::page(web.pid);
    if page.trim_end() != expected.trim_end() {
        let what = format!("the web server answers {page:?} instead of {expected:?}");
        return Err(broken(what));
    }
    Ok(page.trim_end().to_owned())
}
