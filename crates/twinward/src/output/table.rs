//! Tables without lines: a header, two spaces between columns, long cells cut at the terminal's
//! edge. Into a pipe every value goes whole.

use comfy_table::{Cell, ContentArrangement, Table};

use super::Paper;

/// Spaces between two columns.
const GAP: u16 = 2;
/// What a cut cell ends with.
const CUT: char = '…';

/// The width of the terminal, if there is one.
pub(crate) fn terminal_width() -> Option<u16> {
    Table::new().width()
}

/// Lays rows out below a header.
pub(crate) fn table(paper: &Paper, header: &[&str], cells: Vec<Vec<String>>) -> String {
    print(
        paper,
        &lines(paper, &build(Some(header), cells)),
        Bold::First,
    )
}

/// Lays out names and values without a header.
pub(crate) fn pairs(paper: &Paper, pairs: Vec<(&str, String)>) -> String {
    let lines = pairs
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    rows(paper, lines)
}

/// Lays rows out without a header.
pub(crate) fn rows(paper: &Paper, cells: Vec<Vec<String>>) -> String {
    print(paper, &lines(paper, &build(None, cells)), Bold::None)
}

/// A table that comes page by page: columns do not move from one page to the next unless a cell
/// needs more room, and the header is printed again only when the columns are others.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    header: Vec<String>,
    widths: Vec<u16>,
}

impl Pages {
    /// Lays out the next page.
    pub(crate) fn next(
        &mut self,
        paper: &Paper,
        header: &[&str],
        mut cells: Vec<Vec<String>>,
    ) -> String {
        if cells.is_empty() {
            return String::new();
        }
        if self.header != header {
            self.header = header.iter().map(|name| (*name).to_owned()).collect();
            self.widths = Vec::new();
            let built = build(Some(header), cells);
            self.widths = built.column_max_content_widths();
            return print(paper, &lines(paper, &built), Bold::First);
        }
        // A row that is as wide as the pages before, and is not printed.
        let room = self.widths.iter();
        cells.insert(
            0,
            room.map(|width| "-".repeat(usize::from(*width))).collect(),
        );
        let built = build(None, cells);
        self.widths = built.column_max_content_widths();
        print(paper, &lines(paper, &built)[1..], Bold::None)
    }
}

/// Whether the first line is a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bold {
    First,
    None,
}

/// Widths count what is seen, so styling is added to finished lines.
fn print(paper: &Paper, lines: &[String], bold: Bold) -> String {
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index == 0 && bold == Bold::First {
            text.push_str(&paper.bold(line));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

fn build(header: Option<&[&str]>, cells: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    // A width that we choose ourselves, not what the library finds out about standard output.
    table.force_no_tty();
    table.set_content_arrangement(ContentArrangement::Disabled);
    if let Some(header) = header {
        table.set_header(header.iter().map(|name| one_line(name)));
    }
    for row in cells {
        table.add_row(row.iter().map(|cell| Cell::new(one_line(cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.load_style(comfy_table::presets::NOTHING);
    table
}

fn lines(paper: &Paper, table: &Table) -> Vec<String> {
    table
        .lines()
        .map(|line| match paper.width {
            Some(width) => cut(line.trim_end(), usize::from(width)),
            None => line.trim_end().to_owned(),
        })
        .collect()
}

/// Control characters would break the layout, or steer the terminal of whoever looks: values come
/// from devices, which are not trusted.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Shortens a line to the width of the terminal.
pub(crate) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width || width == 0 {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(width - 1).collect();
    short.push(CUT);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper(width: Option<u16>) -> Paper {
        Paper {
            width,
            color: false,
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec![
                "cam-1".to_owned(),
                "a rather long description\nof two lines".to_owned(),
            ],
            vec!["c".to_owned(), String::new()],
        ]
    }

    #[test]
    fn columns_line_up_and_a_line_break_inside_a_cell_does_not_break_the_table() {
        assert_eq!(
            table(&paper(None), &["DEVICE", "TEXT"], rows()),
            "DEVICE  TEXT\n\
             cam-1   a rather long description\u{fffd}of two lines\n\
             c\n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_lines_instead_of_wrapping_them() {
        assert_eq!(
            table(&paper(Some(20)), &["DEVICE", "TEXT"], rows()),
            "DEVICE  TEXT\n\
             cam-1   a rather lo…\n\
             c\n"
        );
    }

    #[test]
    fn pages_of_a_table_line_up_and_repeat_the_header_only_for_other_columns() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let mut pages = Pages::default();
        let header = ["ID", "SITE"];
        let text = pages.next(&paper(None), &header, vec![row(&["camera-1", "x"])])
            + &pages.next(&paper(None), &header, Vec::new())
            + &pages.next(
                &paper(None),
                &header,
                vec![row(&["c", "y"]), row(&["d", "z"])],
            )
            + &pages.next(&paper(None), &["N"], vec![row(&["1"])]);
        assert_eq!(
            text,
            "ID        SITE\n\
             camera-1  x\n\
             c         y\n\
             d         z\n\
             N\n\
             1\n"
        );
    }
}
