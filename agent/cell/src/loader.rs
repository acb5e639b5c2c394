//! From a component's bytes to a plan: checked, compiled and resolved once, instantiated as often as needed.
//!
//! A component is a list of definitions, each in an index space of its own: core modules, core instances, core
//! functions, memories, component functions. The plan keeps the ones that matter at run time: which modules to
//! instantiate in which order, and where each of their imports comes from.

#![allow(clippy::wildcard_enum_match_arm)] // the enums here are wasmparser's: most of what they list is refused or of no concern

use porin_core::{limits::CellLimits, setup::World};
use wasmi::Module;
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentTypeRef,
    Encoding, ExternalKind, Instance, Parser, Payload,
};

use crate::{
    Engine,
    caps::Capability,
    counts::Counts,
    error::LoadError,
    typecheck::{self, Contract, malformed, top_level},
};

/// A cell's component, ready to be instantiated.
pub struct Plan {
    /// The world it was checked against.
    pub world: World,
    pub(crate) component: Component,
}

/// A component of whatever world, ready to be instantiated.
pub(crate) struct Component {
    pub(crate) engine: Engine,
    pub(crate) capabilities: Vec<&'static Capability>,
    pub(crate) steps: Vec<Step>,
    pub(crate) exports: Vec<(String, Lift)>,
    /// Pages of linear memory with which it begins.
    pub(crate) pages: u64,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("world", &self.world)
            .field("grants", &self.component.capabilities)
            .finish_non_exhaustive()
    }
}

/// Instantiates one core module.
pub(crate) struct Step {
    pub(crate) module: Module,
    /// In the order of the module's imports.
    pub(crate) imports: Vec<Item>,
}

/// Where something in a core index space comes from.
#[derive(Clone)]
pub(crate) enum Item {
    /// An export of the core instance that an earlier step makes.
    Export { step: usize, name: String },
    /// A function of the host, lowered with a memory.
    Host { capability: &'static Capability, function: usize, memory: Option<Box<Item>> },
}

/// A core function as a component function.
#[derive(Clone)]
pub(crate) struct Lift {
    pub(crate) function: Item,
    pub(crate) memory: Option<Item>,
    pub(crate) realloc: Option<Item>,
    pub(crate) post_return: Option<Item>,
}

impl Plan {
    /// Checks and compiles a component.
    ///
    /// # Errors
    /// A [`LoadError`] for the first thing that is wrong; nothing has been instantiated then.
    pub fn load(engine: &Engine, bytes: &[u8], world: World, limits: &CellLimits) -> Result<Self, LoadError> {
        Ok(Self { world, component: Component::load(engine, bytes, Contract::of(world), limits)? })
    }

    /// What a slot must grant before this component may start: the import, and the grant by the name that a configuration uses.
    pub fn imports(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.component.capabilities.iter().map(|capability| (capability.interface, capability.grant))
    }
}

impl Component {
    pub(crate) fn load(
        engine: &Engine,
        bytes: &[u8],
        contract: &'static Contract,
        limits: &CellLimits,
    ) -> Result<Self, LoadError> {
        if bytes.len() > limits.component_bytes {
            return Err(LoadError::TooLarge { bytes: bytes.len(), limit: limits.component_bytes });
        }
        refuse_what_is_no_component(bytes)?;
        // What we cannot run is named before what is wrong with it.
        top_level(bytes, |payload| refuse_unsupported(&payload))?;
        let capabilities = typecheck::check(bytes, contract)?;
        let mut counts = Counts::default();
        top_level(bytes, |payload| match payload {
            Payload::ModuleSection { unchecked_range: range, .. } => {
                counts.add(inconsistent(bytes.get(range))?, limits)
            }
            _ => Ok(()),
        })?;
        let mut spaces = Spaces::new(contract);
        top_level(bytes, |payload| spaces.define(engine, bytes, payload))?;
        let Spaces { steps, exports, .. } = spaces;
        Ok(Self { engine: engine.clone(), capabilities, steps, exports, pages: counts.pages })
    }
}

impl std::fmt::Debug for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.grant)
    }
}

fn refuse_what_is_no_component(bytes: &[u8]) -> Result<(), LoadError> {
    match Parser::new(0).parse(bytes, true).map_err(malformed)? {
        wasmparser::Chunk::Parsed { payload: Payload::Version { encoding: Encoding::Module, .. }, .. } => {
            Err(LoadError::CoreModule)
        }
        _ => Ok(()),
    }
}

fn refuse_unsupported(payload: &Payload<'_>) -> Result<(), LoadError> {
    match payload {
        Payload::ComponentStartSection { .. } => Err(LoadError::StartFunction),
        Payload::ComponentSection { .. } => Err(LoadError::Unsupported("nested components")),
        Payload::ComponentInstanceSection(section) => match section.clone().into_iter().next() {
            Some(Ok(ComponentInstance::Instantiate { .. })) => Err(LoadError::Unsupported("nested components")),
            Some(Ok(ComponentInstance::FromExports(_))) => Err(LoadError::Unsupported("instances of its own")),
            _ => Ok(()),
        },
        Payload::ComponentImportSection(section) => {
            for import in section.clone() {
                match import.map_err(malformed)?.ty {
                    ComponentTypeRef::Module(_) => return Err(LoadError::Unsupported("imported core modules")),
                    ComponentTypeRef::Component(_) => return Err(LoadError::Unsupported("imported components")),
                    ComponentTypeRef::Value(_) => return Err(LoadError::Unsupported("values")),
                    ComponentTypeRef::Func(_) | ComponentTypeRef::Type(_) | ComponentTypeRef::Instance(_) => {}
                }
            }
            Ok(())
        }
        Payload::ComponentCanonicalSection(section) => {
            for function in section.clone() {
                let options = match function.map_err(malformed)? {
                    CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => options,
                    _ => return Err(LoadError::Unsupported("resources, threads or async")),
                };
                for option in options {
                    match option {
                        CanonicalOption::UTF16 | CanonicalOption::CompactUTF16 => {
                            return Err(LoadError::Unsupported("an encoding other than UTF-8"));
                        }
                        CanonicalOption::Async | CanonicalOption::Callback(_) => {
                            return Err(LoadError::Unsupported("async"));
                        }
                        CanonicalOption::UTF8
                        | CanonicalOption::Memory(_)
                        | CanonicalOption::Realloc(_)
                        | CanonicalOption::PostReturn(_) => {}
                    }
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The index spaces while a component is read. An index is in bounds: the component is valid.
struct Spaces {
    contract: &'static Contract,
    modules: Vec<Module>,
    core_instances: Vec<CoreInstance>,
    core_functions: Vec<Item>,
    memories: Vec<Item>,
    tables: Vec<Item>,
    globals: Vec<Item>,
    functions: Vec<Function>,
    /// Imported instances, by name. There are no others.
    instances: Vec<String>,
    steps: Vec<Step>,
    exports: Vec<(String, Lift)>,
}

enum CoreInstance {
    Step(usize),
    /// A bundle of items under names, made to be an argument.
    Items(Vec<(String, Item)>),
}

#[derive(Clone)]
enum Function {
    Import { capability: &'static Capability, function: usize },
    Lift(Lift),
}

/// The validator has seen every index; this is for the compiler.
fn inconsistent<T>(found: Option<T>) -> Result<T, LoadError> {
    found.ok_or(LoadError::Unsupported("an item that its sections do not define"))
}

fn at<T: Clone>(space: &[T], index: u32) -> Result<T, LoadError> {
    inconsistent(usize::try_from(index).ok().and_then(|index| space.get(index)).cloned())
}

impl Spaces {
    fn new(contract: &'static Contract) -> Self {
        Self {
            contract,
            modules: Vec::new(),
            core_instances: Vec::new(),
            core_functions: Vec::new(),
            memories: Vec::new(),
            tables: Vec::new(),
            globals: Vec::new(),
            functions: Vec::new(),
            instances: Vec::new(),
            steps: Vec::new(),
            exports: Vec::new(),
        }
    }

    fn define(&mut self, engine: &Engine, bytes: &[u8], payload: Payload<'_>) -> Result<(), LoadError> {
        match payload {
            Payload::ModuleSection { unchecked_range: range, .. } => {
                let module = inconsistent(bytes.get(range))?;
                let module = Module::new(&engine.inner, module);
                self.modules.push(module.map_err(|error| LoadError::Compile(error.to_string()))?);
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    let instance = self.core_instance(instance.map_err(malformed)?)?;
                    self.core_instances.push(instance);
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import.map_err(malformed)?;
                    if let ComponentTypeRef::Instance(_) = import.ty {
                        self.instances.push(import.name.0.to_owned());
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(alias.map_err(malformed)?)?;
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    self.canonical(function.map_err(malformed)?)?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    if export.kind == ComponentExternalKind::Func {
                        let function = at(&self.functions, export.index)?;
                        if let Function::Lift(lift) = &function {
                            self.exports.push((export.name.0.to_owned(), lift.clone()));
                        }
                        // An export is also a definition: it gets an index of its own.
                        self.functions.push(function);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn core_instance(&mut self, instance: Instance<'_>) -> Result<CoreInstance, LoadError> {
        match instance {
            Instance::Instantiate { module_index, args } => {
                let module = at(&self.modules, module_index)?;
                let mut imports = Vec::new();
                for import in module.imports() {
                    let argument = args.iter().find(|argument| argument.name == import.module());
                    imports.push(self.export_of(inconsistent(argument)?.index, import.name())?);
                }
                self.steps.push(Step { module, imports });
                Ok(CoreInstance::Step(self.steps.len() - 1))
            }
            Instance::FromExports(exports) => {
                let mut items = Vec::new();
                for export in exports {
                    let space = self.core_space(export.kind)?;
                    items.push((export.name.to_owned(), at(space, export.index)?));
                }
                Ok(CoreInstance::Items(items))
            }
        }
    }

    fn export_of(&self, instance: u32, name: &str) -> Result<Item, LoadError> {
        match inconsistent(usize::try_from(instance).ok().and_then(|index| self.core_instances.get(index)))? {
            CoreInstance::Step(step) => Ok(Item::Export { step: *step, name: name.to_owned() }),
            CoreInstance::Items(items) => {
                inconsistent(items.iter().find(|(n, _)| n == name).map(|(_, item)| item.clone()))
            }
        }
    }

    fn alias(&mut self, alias: ComponentAlias<'_>) -> Result<(), LoadError> {
        match alias {
            ComponentAlias::CoreInstanceExport { kind, instance_index, name } => {
                let item = self.export_of(instance_index, name)?;
                self.core_space(kind)?.push(item);
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Func, instance_index, name } => {
                let interface = at(&self.instances, instance_index)?;
                let capability = self.contract.capabilities.iter().find(|capability| capability.interface == interface);
                let capability = capability.ok_or(LoadError::UnknownImport(interface))?;
                let function = capability.functions.iter().position(|(n, _)| *n == name);
                self.functions.push(Function::Import { capability, function: inconsistent(function)? });
            }
            // Types have no part in what runs.
            ComponentAlias::InstanceExport { .. } | ComponentAlias::Outer { .. } => {}
        }
        Ok(())
    }

    fn canonical(&mut self, function: CanonicalFunction) -> Result<(), LoadError> {
        match function {
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                let mut lift = Lift {
                    function: at(&self.core_functions, core_func_index)?,
                    memory: None,
                    realloc: None,
                    post_return: None,
                };
                for option in options {
                    match option {
                        CanonicalOption::Memory(index) => lift.memory = Some(at(&self.memories, index)?),
                        CanonicalOption::Realloc(index) => lift.realloc = Some(at(&self.core_functions, index)?),
                        CanonicalOption::PostReturn(index) => lift.post_return = Some(at(&self.core_functions, index)?),
                        _ => {}
                    }
                }
                self.functions.push(Function::Lift(lift));
            }
            CanonicalFunction::Lower { func_index, options } => {
                let Function::Import { capability, function } = at(&self.functions, func_index)? else {
                    return Err(LoadError::Unsupported("calls of its own exports"));
                };
                let mut memory = None;
                for option in options {
                    if let CanonicalOption::Memory(index) = option {
                        memory = Some(Box::new(at(&self.memories, index)?));
                    }
                }
                self.core_functions.push(Item::Host { capability, function, memory });
            }
            _ => return Err(LoadError::Unsupported("resources, threads or async")),
        }
        Ok(())
    }

    fn core_space(&mut self, kind: ExternalKind) -> Result<&mut Vec<Item>, LoadError> {
        match kind {
            ExternalKind::Func => Ok(&mut self.core_functions),
            ExternalKind::Memory => Ok(&mut self.memories),
            ExternalKind::Table => Ok(&mut self.tables),
            ExternalKind::Global => Ok(&mut self.globals),
            ExternalKind::Tag => Err(LoadError::Unsupported("exceptions")),
        }
    }
}
