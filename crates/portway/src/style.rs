//! Colour on terminals, and none elsewhere.

use std::fmt;
use std::io::IsTerminal;

/// How text may look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colour: bool,
}

/// A text and the codes around it.
pub(crate) struct Painted<T> {
    code: Option<&'static str>,
    text: T,
}

impl Style {
    /// For what is written to this stream: coloured if it is a terminal and the user has nothing against it
    /// (<https://no-color.org>).
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: stream.is_terminal() && !refused }
    }

    /// Whether colours are used.
    pub(crate) fn colour(self) -> bool {
        self.colour
    }

    /// For headings and names.
    pub(crate) fn bold<T>(self, text: T) -> Painted<T> {
        self.paint("\x1b[1m", text)
    }

    /// For what matters less.
    pub(crate) fn dim<T>(self, text: T) -> Painted<T> {
        self.paint("\x1b[2m", text)
    }

    /// For what is well.
    pub(crate) fn good<T>(self, text: T) -> Painted<T> {
        self.paint("\x1b[32m", text)
    }

    /// For what wants a look.
    pub(crate) fn warn<T>(self, text: T) -> Painted<T> {
        self.paint("\x1b[33m", text)
    }

    /// For what is wrong.
    pub(crate) fn bad<T>(self, text: T) -> Painted<T> {
        self.paint("\x1b[31m", text)
    }

    /// For what can be typed or opened.
    pub(crate) fn link<T>(self, text: T) -> Painted<T> {
        self.paint("\x1b[36m", text)
    }

    fn paint<T>(self, code: &'static str, text: T) -> Painted<T> {
        Painted { code: self.colour.then_some(code), text }
    }
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            // The text takes the padding, so that columns stay in line whatever the colour.
            Some(code) => {
                f.write_str(code)?;
                self.text.fmt(f)?;
                f.write_str("\x1b[0m")
            }
            None => self.text.fmt(f),
        }
    }
}
