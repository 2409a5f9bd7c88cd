//! Every number that bounds an identifier, a section or a condition, in one place, each with its
//! source or its reason. Code elsewhere names these constants and never repeats a number.
//!
//! "Spec" is the fact sheet of Azure IoT Hub's external behaviour that the project reproduces.

/// Characters in a device or module id (spec 2.4).
pub const ID_CHARS_MAX: usize = 128;

/// Partitions a hub may have. A partition is a stream and a row; 256 keep a NATS server's and a
/// replica's fixed costs small, and leave 16 partitions to each of 16 replicas.
pub const PARTITIONS_MAX: u16 = 256;

/// Partitions of a hub that was not told otherwise: enough to share among 16 replicas.
pub const PARTITIONS_DEFAULT: u16 = 16;

/// Counted bytes of `tags` (spec 2.1).
pub const TAGS_BYTES_MAX: usize = 8 * 1024;

/// Counted bytes of `properties.desired` (spec 2.1).
pub const DESIRED_BYTES_MAX: usize = 32 * 1024;

/// Counted bytes of `properties.reported` (spec 2.1).
pub const REPORTED_BYTES_MAX: usize = 32 * 1024;

/// UTF-8 bytes of one string value (spec 2.1).
pub const STRING_BYTES_MAX: usize = 4096;

/// UTF-8 bytes of one key (spec 2.1).
pub const KEY_BYTES_MAX: usize = 1024;

/// Objects and arrays within each other below the section's root (spec 2.3).
pub const DEPTH_MAX: usize = 10;

/// Smallest integer in a section: −2^52 (spec 2.3).
pub const INTEGER_MIN: i64 = -4_503_599_627_370_496;

/// Largest integer in a section: 2^52 − 1 (spec 2.3).
pub const INTEGER_MAX: i64 = 4_503_599_627_370_495;

/// What a number adds to a section's size, whatever its digits (spec 2.1).
pub const NUMBER_BYTES: usize = 8;

/// What a boolean adds to a section's size (spec 2.1).
pub const BOOLEAN_BYTES: usize = 4;

/// Bytes of a section's JSON text for each of its counted bytes. The count leaves out quotes, brackets,
/// escapes and control characters, so `{}`, `[]`, `""` and `"\u0001"` count nothing, and a section of
/// the largest count could be of any length. Keys and values of one letter come to 4, numbers of 24
/// digits to 3: what people keep fits.
pub const TEXT_BYTES_PER_COUNTED: usize = 4;

/// Counted bytes of a section's limit for each value that it may hold: a boolean, the smallest value
/// that counts anything by itself. Each member of an object has metadata of some 100 bytes, and each
/// value takes memory, even if it counts nothing.
pub const COUNTED_BYTES_PER_VALUE: usize = 4;

/// Violations listed in one answer. All are counted; a patch of 256 KB could break the same rule
/// tens of thousands of times, and nobody reads past the first screen.
pub const VIOLATIONS_LISTED_MAX: usize = 64;

/// Characters of an offending value or key repeated in an error: enough to recognise it, too
/// little to fill a log.
pub const QUOTE_CHARS_MAX: usize = 48;

/// Characters of a condition (spec 8.1: query text of at most 8192 characters).
pub const QUERY_CHARS_MAX: usize = 8192;

/// Parentheses, `NOT`s, signs, function calls and quantifiers within each other. Nobody writes
/// ten; 64 keep the recursive parser and evaluator far from the end of a 2 MiB stack.
pub const QUERY_NESTING_MAX: usize = 64;

/// Values in an `IN [...]` list. Longer lists belong into a tag array (`IN tags.allowed`).
pub const QUERY_LIST_MAX: usize = 1000;

/// `EXISTS` within `EXISTS`. Each level multiplies the work by the length of an array, and a
/// condition is evaluated on every change of every twin.
pub const QUERY_EXISTS_NESTING_MAX: usize = 2;

/// Steps that judging one twin by a condition may take; beyond them it is undecided. A step is a part
/// of the condition evaluated, a value of a list compared, or 16 bytes of a text looked through: some
/// 10 ns, so that a twin takes milliseconds at most. The longest array that a section holds can be
/// gone through with sixty parts for each element.
pub const QUERY_STEPS_MAX: usize = 500_000;

/// Arguments of one `CONCAT`.
pub const QUERY_ARGUMENTS_MAX: usize = 32;

/// Bytes of a text that a function makes; a longer one is undefined. A query is evaluated for every
/// twin, and texts joined from texts joined from texts grow without end.
pub const QUERY_TEXT_BYTES_MAX: usize = 32 * 1024;

/// Items after `SELECT`. An answer of more is a whole twin.
pub const QUERY_ITEMS_MAX: usize = 100;

/// Paths after `GROUP BY`.
pub const QUERY_GROUP_KEYS_MAX: usize = 8;

/// Keys after `ORDER BY`. A page token holds their values, up to 4 KiB each.
pub const QUERY_ORDER_KEYS_MAX: usize = 4;

/// Rows that `TOP` may ask for: no hub has as many twins, and the number stays exact as a float.
pub const QUERY_TOP_MAX: u64 = 1_000_000_000;

/// Groups of one answer. More are no overview, and have to be kept in memory.
pub const QUERY_GROUPS_MAX: usize = 10_000;

/// Bytes of keys and texts kept for the groups of one answer.
pub const QUERY_GROUPS_BYTES_MAX: usize = 16 * 1024 * 1024;
