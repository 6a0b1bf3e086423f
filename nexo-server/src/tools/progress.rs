//! How far a tool is: a bar on stderr where that is a terminal, and nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar shows that the tool lives.
const TICK: Duration = Duration::from_millis(200);

/// A bar that counts `what`.
pub(super) fn bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = format!(
        "{{spinner}} {{msg}}  {{human_pos}}/{{human_len}} {what}  {{per_sec}}  ETA {{eta}}"
    );
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}
