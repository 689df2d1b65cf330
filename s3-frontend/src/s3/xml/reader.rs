//! Reading XML.
//!
//! What must hold: the size of a document is limited before it comes here and its depth is limited here; a document type, and
//! with it every entity of its own, is refused; prefixes of namespaces are not looked at, as clients send all kinds.

use crate::limits::XML_DEPTH_MAX;
use quick_xml::events::Event;

/// The document does not follow its grammar, or not its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the XML is malformed")]
pub(crate) struct MalformedXml;

/// Walks through a document and calls `visit` at the end of each element, innermost first, with the path of names from the root
/// (`Delete/Object/Key`) and the element's own text.
pub(crate) fn read(
    document: &[u8],
    mut visit: impl FnMut(&str, &str) -> Result<(), MalformedXml>,
) -> Result<(), MalformedXml> {
    let document = std::str::from_utf8(document).map_err(|_| MalformedXml)?;
    let document = document.strip_prefix('\u{feff}').unwrap_or(document);
    let mut reader = quick_xml::Reader::from_str(document);
    let mut path = String::new();
    // The text so far of each open element.
    let mut texts: Vec<String> = Vec::new();
    let mut had_root = false;
    loop {
        match reader.read_event().map_err(|_| MalformedXml)? {
            Event::Start(element) => {
                open(element.local_name().as_ref(), &mut path, &mut texts, &mut had_root)?;
            }
            Event::Empty(element) => {
                open(element.local_name().as_ref(), &mut path, &mut texts, &mut had_root)?;
                close(&mut path, &mut texts, &mut visit)?;
            }
            Event::End(_) => close(&mut path, &mut texts, &mut visit)?,
            Event::Text(text) => {
                let text = text.unescape().map_err(|_| MalformedXml)?;
                match texts.last_mut() {
                    Some(open) => open.push_str(&text),
                    None if text.trim().is_empty() => {}
                    None => return Err(MalformedXml),
                }
            }
            Event::CData(data) => {
                let text = std::str::from_utf8(&data).map_err(|_| MalformedXml)?;
                texts.last_mut().ok_or(MalformedXml)?.push_str(text);
            }
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::DocType(_) => return Err(MalformedXml),
            Event::Eof if had_root && texts.is_empty() => return Ok(()),
            Event::Eof => return Err(MalformedXml),
        }
    }
}

fn open(
    name: &[u8],
    path: &mut String,
    texts: &mut Vec<String>,
    had_root: &mut bool,
) -> Result<(), MalformedXml> {
    // The library takes any name; one with a slash could pass for a path of several elements.
    if texts.len() == XML_DEPTH_MAX || (texts.is_empty() && *had_root) || name.contains(&b'/') {
        return Err(MalformedXml);
    }
    *had_root = true;
    if !texts.is_empty() {
        path.push('/');
    }
    path.push_str(std::str::from_utf8(name).map_err(|_| MalformedXml)?);
    texts.push(String::new());
    Ok(())
}

fn close(
    path: &mut String,
    texts: &mut Vec<String>,
    visit: &mut impl FnMut(&str, &str) -> Result<(), MalformedXml>,
) -> Result<(), MalformedXml> {
    let text = texts.pop().ok_or(MalformedXml)?;
    visit(path, &text)?;
    path.truncate(path.rfind('/').unwrap_or(0));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(document: &str) -> Result<Vec<(String, String)>, MalformedXml> {
        let mut seen = Vec::new();
        read(document.as_bytes(), |path, text| {
            seen.push((path.to_owned(), text.to_owned()));
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn elements_are_visited_at_their_end() {
        let seen = walk(
            "\u{feff}<?xml version=\"1.0\"?><!-- c --><s:A xmlns:s='u'> <B>x&amp;<![CDATA[<y>]]>&#x41;</B>\n<C/></s:A>\n",
        )
        .unwrap();
        let seen: Vec<_> = seen.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(seen, [("A/B", "x&<y>A"), ("A/C", ""), ("A", " \n")]);
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for document in [
            "",
            "  ",
            "text",
            "<A>",
            "<A></B>",
            "<A/B></A/B>",
            "<A><B/C>x</B/C></A>",
            "<A/><B/>",
            "<A/>text",
            "<A><B></A></B>",
            "<A>&unknown;</A>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><A>&b;</A>",
            "<!DOCTYPE a><A/>",
            "<A",
            "</A>",
            "<a><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a></a>",
        ] {
            assert_eq!(walk(document), Err(MalformedXml), "{document}");
        }
        assert_eq!(read(b"<A>\xff</A>", |_, _| Ok(())), Err(MalformedXml));
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "[<>/A!&;\\[\\]a-c\"'=? -]{0,60}") {
            let _ = walk(&text);
        }
    }
}
