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
    // Widths count what is seen, so styling is added to finished lines.
    let lines = layout(paper, Some(header), cells);
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            text.push_str(&paper.bold(line));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
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
    layout(paper, None, cells)
        .iter()
        .map(|line| line.clone() + "\n")
        .collect()
}

fn layout(paper: &Paper, header: Option<&[&str]>, cells: Vec<Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    // A width that we choose ourselves, not what the library finds out about standard output.
    table.force_no_tty();
    table.set_content_arrangement(ContentArrangement::Disabled);
    if let Some(header) = header {
        table.set_header(header.iter().copied());
    }
    for row in cells {
        table.add_row(row.iter().map(|cell| Cell::new(one_line(cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.load_style(comfy_table::presets::NOTHING);
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
}
