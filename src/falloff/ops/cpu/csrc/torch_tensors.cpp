#include "torch_tensors.h"

#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace falloff {
namespace {

// Kept as long as the process: Python may be gone before static objects are.
struct Torch {
    nb::object tensor, parameter, data_ptr, storage_offset, stride, untyped_storage, nbytes, shape, dtype, is_cpu;
    std::vector<std::pair<nb::object, Dtype>> dtypes;

    Torch() {
        const nb::module_ torch = nb::module_::import_("torch");
        tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
        const nb::object base = torch.attr("_C").attr("TensorBase");
        data_ptr = base.attr("data_ptr"), storage_offset = base.attr("storage_offset"), stride = base.attr("stride");
        untyped_storage = base.attr("untyped_storage");
        nbytes = torch.attr("_C").attr("StorageBase").attr("nbytes");
        shape = base.attr("shape").attr("__get__"), dtype = base.attr("dtype").attr("__get__");
        is_cpu = base.attr("is_cpu").attr("__get__");
        const std::pair<const char*, Dtype> names[] = {
            {"float32", Dtype::float32}, {"bfloat16", Dtype::bfloat16}, {"bool", Dtype::boolean}, {"uint8", Dtype::uint8},
            {"int8", Dtype::int8},       {"int16", Dtype::int16},       {"int32", Dtype::int32},  {"int64", Dtype::int64},
        };
        for (const auto& [name, dtype] : names) dtypes.emplace_back(torch.attr(name), dtype);
    }
};

const Torch& torch() {
    static const Torch* const found = new Torch;
    return *found;
}

// What a method gives for the one argument.
nb::object ask(const nb::object& method, nb::handle of) {
    PyObject* answer = PyObject_CallFunctionObjArgs(method.ptr(), of.ptr(), nullptr);
    if (!answer) throw nb::python_error();
    return nb::steal(answer);
}

int64_t integer(nb::handle number) {
    const long long value = PyLong_AsLongLong(number.ptr());
    if (value == -1 && PyErr_Occurred()) throw nb::python_error();
    return value;
}

size_t integers(const nb::object& tuple, int64_t* to, size_t most) {
    const Py_ssize_t count = PyTuple_Size(tuple.ptr());
    if (count < 0) throw nb::python_error();
    for (Py_ssize_t i = 0; i < count && size_t(i) < most; i++) to[i] = integer(PyTuple_GetItem(tuple.ptr(), i));
    return size_t(count);
}

}  // namespace

TorchTensor::TorchTensor(const char* name, nb::handle object) {
    const Torch& t = torch();
    const nb::handle type = object.type();
    auto refuse = [&](const std::string& got) {
        throw std::invalid_argument(std::string(name) + ": got " + got + ", expected a torch.Tensor on the CPU");
    };
    if (!type.is(t.tensor) && !type.is(t.parameter)) refuse(nb::type_name(type).c_str());
    if (!ask(t.is_cpu, object).is(nb::handle(Py_True))) refuse("one on another device");
    ndim = integers(ask(t.shape, object), shape, MOST_DIMENSIONS);
    if (ndim > MOST_DIMENSIONS) refuse(std::to_string(ndim) + " dimensions");
    integers(ask(t.stride, object), strides, MOST_DIMENSIONS);
    dtype = Dtype::other;
    const nb::object own = ask(t.dtype, object);
    for (const auto& [known, is] : t.dtypes)
        if (own.is(known)) dtype = is;
    data = PyLong_AsVoidPtr(ask(t.data_ptr, object).ptr());
    if (!data && PyErr_Occurred()) throw nb::python_error();
    length = integer(ask(t.nbytes, ask(t.untyped_storage, object))) / size_of(dtype) - integer(ask(t.storage_offset, object));
}

}  // namespace falloff
