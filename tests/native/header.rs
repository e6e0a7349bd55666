//! include/nvfp4.h, read as a list of declarations. It is generated, so a small reader is enough; what it does not
//! understand is an error, never skipped.

#[derive(Debug, Default)]
pub struct Header {
    pub constants: Vec<Constant>,
    /// (name, type): integer types and the callback.
    pub types: Vec<(String, String)>,
    pub structs: Vec<Struct>,
    pub functions: Vec<Function>,
}

#[derive(Debug)]
pub struct Constant {
    pub name: String,
    pub doc: String,
}

#[derive(Debug)]
pub struct Struct {
    pub name: String,
    pub doc: String,
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    /// The whole declaration, spaces normalised.
    pub declaration: String,
    pub doc: String,
}

#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub prototype: String,
    pub doc: String,
}

pub fn parse() -> Header {
    let text = super::read("include/nvfp4.h");
    let mut header = Header::default();
    for (statement, doc) in statements(&text) {
        declare(&mut header, &statement, doc);
    }
    assert!(header.functions.len() > 60 && header.structs.len() > 15, "the header was not understood");
    header
}

/// Statements at the outermost level, each with the documentation comment before it.
fn statements(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (mut statement, mut doc, mut depth) = (String::new(), String::new(), 0);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if rest.starts_with("/*") {
            let end = rest.find("*/").expect("comments end");
            if statement.trim().is_empty() {
                doc = if rest.starts_with("/**") { comment(&rest[3..end]) } else { String::new() };
            } else {
                statement.push_str(&rest[..end + 2]); // of a field
            }
            rest = &rest[end + 2..];
        } else if rest.starts_with("//") || (rest.starts_with('#') && !rest.starts_with("#define NVFP4_")) {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("#define") {
            let end = rest.find('\n').unwrap_or(rest.len());
            out.push((rest[..end].to_string(), std::mem::take(&mut doc)));
            rest = &rest[end..];
        } else if rest.starts_with("extern \"C\" {") {
            rest = &rest["extern \"C\" {".len()..];
        } else {
            match next {
                '{' => depth += 1,
                '}' if depth == 0 => {} // of extern "C"
                '}' => depth -= 1,
                _ => {}
            }
            if !(next == '}' && statement.trim().is_empty()) {
                statement.push(next);
            }
            rest = &rest[next.len_utf8()..];
            if next == ';' && depth == 0 {
                out.push((std::mem::take(&mut statement), std::mem::take(&mut doc)));
            }
        }
    }
    out
}

fn comment(text: &str) -> String {
    text.lines()
        .map(|l| l.trim().trim_start_matches('*').trim())
        .collect::<Vec<_>>()
        .join(" ")
        .trim()
        .to_string()
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn declare(header: &mut Header, statement: &str, doc: String) {
    let flat = squeeze(statement);
    let flat = flat.trim_end_matches(';');
    if let Some(define) = flat.strip_prefix("#define ") {
        if let Some((name, _)) = define.split_once(' ') {
            header.constants.push(Constant { name: name.into(), doc });
        }
    } else if let Some(open) = statement.find('{') {
        let name = squeeze(statement[..open].trim().trim_start_matches("typedef"));
        let name = name.strip_prefix("struct ").unwrap_or_else(|| panic!("not a struct: {flat}")).to_string();
        let close = statement.rfind('}').expect("a struct closes");
        let fields = fields(&statement[open + 1..close]);
        // The opaque declaration of a struct that is defined later has its documentation.
        match header.structs.iter_mut().find(|s| s.name == name) {
            Some(known) => known.fields = fields,
            None => header.structs.push(Struct { name, doc, fields }),
        }
    } else if let Some(rest) = flat.strip_prefix("typedef struct ") {
        let (name, alias) = rest.split_once(' ').expect("typedef struct name alias");
        if name == alias {
            header.structs.push(Struct { name: name.into(), doc, fields: Vec::new() });
        } else {
            header.types.push((alias.into(), format!("struct {name}")));
        }
    } else if let Some(rest) = flat.strip_prefix("typedef ") {
        match rest.split_once("(*") {
            Some((result, rest)) => {
                let (name, parameters) = rest.split_once(')').expect("a callback");
                header.types.push((name.into(), format!("{}(*){parameters}", result)));
            }
            None => {
                let (old, name) = rest.rsplit_once(' ').expect("typedef old new");
                header.types.push((name.into(), old.into()));
            }
        }
    } else {
        let (before, _) = flat.split_once('(').unwrap_or_else(|| panic!("not a declaration: {flat}"));
        let name = before.rsplit([' ', '*']).next().expect("a function has a name").to_string();
        assert!(name.starts_with("nvfp4_"), "{flat}");
        header.functions.push(Function { name, prototype: flat.to_string(), doc });
    }
}

fn fields(body: &str) -> Vec<Field> {
    let mut out = Vec::new();
    for (statement, doc) in statements(body) {
        let declaration = squeeze(statement.trim_end_matches(';'));
        let name = match declaration.split_once("(*") {
            Some((_, rest)) => rest.split_once(')').expect("a function pointer").0,
            None => declaration
                .split('[')
                .next()
                .and_then(|d| d.rsplit([' ', '*']).next())
                .expect("a field has a name"),
        };
        out.push(Field { name: name.to_string(), declaration: declaration.clone(), doc });
    }
    out
}
