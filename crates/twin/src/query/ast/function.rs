//! The functions of the language: names, number of arguments, and which of them take a path.

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `IS_DEFINED(path)`
    IsDefined,
    /// `IS_NULL(value)`
    IsNull,
    /// `IS_STRING(value)`
    IsString,
    /// `IS_NUMBER(value)`
    IsNumber,
    /// `IS_BOOL(value)`
    IsBool,
    /// `IS_ARRAY(value)`
    IsArray,
    /// `IS_OBJECT(value)`
    IsObject,
    /// `STARTSWITH(text, text)`, also `STARTS_WITH`.
    StartsWith,
    /// `ENDSWITH(text, text)`, also `ENDS_WITH`.
    EndsWith,
    /// `CONTAINS(text, text)`
    Contains,
    /// `LENGTH(text)`, in characters.
    Length,
    /// `LOWER(text)`
    Lower,
    /// `UPPER(text)`
    Upper,
    /// `ABS(number)`
    Abs,
    /// `ARRAY_CONTAINS(path, value)`
    ArrayContains,
    /// `ARRAY_LENGTH(path)`
    ArrayLength,
}

impl Function {
    /// All functions with their names; where there are two, the canonical one first.
    pub(in crate::query) const NAMES: [(&'static str, Function); 18] = [
        ("IS_DEFINED", Function::IsDefined),
        ("IS_NULL", Function::IsNull),
        ("IS_STRING", Function::IsString),
        ("IS_NUMBER", Function::IsNumber),
        ("IS_BOOL", Function::IsBool),
        ("IS_ARRAY", Function::IsArray),
        ("IS_OBJECT", Function::IsObject),
        ("STARTSWITH", Function::StartsWith),
        ("STARTS_WITH", Function::StartsWith),
        ("ENDSWITH", Function::EndsWith),
        ("ENDS_WITH", Function::EndsWith),
        ("CONTAINS", Function::Contains),
        ("LENGTH", Function::Length),
        ("LOWER", Function::Lower),
        ("UPPER", Function::Upper),
        ("ABS", Function::Abs),
        ("ARRAY_CONTAINS", Function::ArrayContains),
        ("ARRAY_LENGTH", Function::ArrayLength),
    ];

    /// The function of that name, in any case.
    pub fn by_name(name: &str) -> Option<Function> {
        let found = Function::NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, function)| *function)
    }

    /// Its canonical name.
    pub fn name(self) -> &'static str {
        let found = Function::NAMES
            .iter()
            .find(|(_, function)| *function == self);
        found
            .expect("every function is in the table, as a test checks")
            .0
    }

    /// How many arguments it takes.
    pub fn arity(self) -> usize {
        match self {
            Function::StartsWith
            | Function::EndsWith
            | Function::Contains
            | Function::ArrayContains => 2,
            Function::IsDefined
            | Function::IsNull
            | Function::IsString
            | Function::IsNumber
            | Function::IsBool
            | Function::IsArray
            | Function::IsObject
            | Function::Length
            | Function::Lower
            | Function::Upper
            | Function::Abs
            | Function::ArrayLength => 1,
        }
    }

    /// Whether its first argument has to be a path: only a path can be undefined or an array.
    pub fn takes_path(self) -> bool {
        matches!(
            self,
            Function::IsDefined | Function::ArrayContains | Function::ArrayLength
        )
    }
}
