//! The story for people.

use std::fmt::Write as _;

use super::story::{Answer, BackendPart, FilterPart, OtherPart, Place, Story};
use crate::style::Style;

/// Other matches that are listed; the rest is counted.
const MOST_OTHERS: usize = 12;

/// The story as text, with a final line break.
pub(super) fn render(story: &Story, style: Style) -> String {
    let mut text = Text { out: String::new(), style };
    text.story(story);
    let mut last = story;
    while let Some(then) = &last.then {
        let _ = writeln!(text.out, "\n{}", style.bold("The redirect comes back here:"));
        text.story(then);
        last = then;
    }
    text.out
}

struct Text {
    out: String,
    style: Style,
}

impl Text {
    fn story(&mut self, story: &Story) {
        let style = self.style;
        self.plain(style.bold(&story.request));
        for note in &story.notes {
            self.plain(format!("  {}", style.warn(note)));
        }
        self.plain("");
        if let Some(listener) = &story.listener {
            let what =
                format!("{} port {}, hostname {}", listener.protocol, listener.port, listener.hostname);
            self.part("listener", &what);
            self.place(&listener.place);
            self.more(&listener.why);
        }
        for (nth, host) in story.hostnames.iter().enumerate() {
            let heading = if nth == 0 { "hostname" } else { "" };
            let verdict = match (host.chosen, story.rule.is_some()) {
                (true, _) => "",
                (false, true) => "  less specific, or no rule there matches",
                (false, false) => "  no rule there matches",
            };
            self.part(heading, &format!("{}{}", host.pattern, style.dim(verdict)));
        }
        if let Some(rule) = &story.rule {
            self.part("rule", &rule.matched);
            self.place(&rule.place);
            for limit in &rule.limits {
                self.more(limit);
            }
        }
        self.filters("filters", &story.filters);
        for (nth, backend) in story.backends.iter().enumerate() {
            self.backend(if nth == 0 { "backends" } else { "" }, backend);
        }
        self.answer(&story.answer);
        for (nth, refused) in story.refused.iter().enumerate() {
            self.part(if nth == 0 { "refused" } else { "" }, &self.style.bad(&refused.why).to_string());
            self.place(&refused.place);
        }
        self.others(&story.others, story.others_left_out);
    }

    fn backend(&mut self, heading: &str, backend: &BackendPart) {
        let protocol = backend.protocol.map(|protocol| format!(" ({protocol})")).unwrap_or_default();
        self.part(heading, &format!("{:>5.1}%  {}{protocol}", backend.percent, backend.to));
        self.place(&backend.place);
        self.filters("", &backend.filters);
        if !backend.endpoints.is_empty() {
            self.more(&format!("endpoints {}", backend.endpoints.join(", ")));
        }
        if let Some(sent) = &backend.sent {
            self.more(&format!("gets {sent}"));
        }
        if let Some(Answer { status, why, .. }) = &backend.answer {
            let line = status.map_or_else(|| why.clone(), |status| format!("{status}: {why}"));
            self.more(&self.style.bad(line).to_string());
        }
    }

    fn filters(&mut self, heading: &str, filters: &[FilterPart]) {
        for (nth, filter) in filters.iter().enumerate() {
            self.part(if nth == 0 { heading } else { "" }, &filter.what);
            self.place(&filter.place);
        }
    }

    fn answer(&mut self, answer: &Answer) {
        let text = match answer.status {
            Some(status) => {
                let colour = if status < 400 { Style::good } else { Style::bad };
                format!("{}  {}", colour(self.style, status), answer.why)
            }
            None => answer.why.clone(),
        };
        self.part("answer", &text);
        if let Some(location) = &answer.location {
            self.more(&format!("Location: {location}"));
        }
    }

    fn others(&mut self, others: &[OtherPart], left_out: usize) {
        if others.is_empty() {
            return;
        }
        self.plain(format!("\n  {}", self.style.dim("other rules that were looked at")));
        for other in others.iter().take(MOST_OTHERS) {
            let mark = if other.matches { "=" } else { "-" };
            let line = format!("  {mark} {} [{}]: {}", other.place.source, other.asks, other.why);
            self.plain(self.style.dim(line));
        }
        let more = others.len().saturating_sub(MOST_OTHERS) + left_out;
        if more > 0 {
            self.plain(self.style.dim(format!("    and {more} more")));
        }
    }

    fn part(&mut self, heading: &str, text: &str) {
        let heading = self.style.bold(format!("{heading:<9}"));
        self.plain(format!("  {heading} {text}"));
    }

    fn place(&mut self, place: &Place) {
        let at = place.at.as_ref().map(|at| format!("  {}", self.style.link(at))).unwrap_or_default();
        self.more(&format!("{}{at}", place.source));
    }

    fn more(&mut self, text: &str) {
        self.plain(format!("            {text}"));
    }

    fn plain(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.out, "{text}");
    }
}
